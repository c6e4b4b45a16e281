//! Load in a closed loop (each sender waits for its answer) and in an open one (requests arrive whatever happens).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use nearfield_testkit::Process;

use crate::arrivals::Arrivals;
use crate::transport::{Query, Sender};

/// Gives the query of the i-th request.
pub(crate) type Queries = Arc<dyn Fn(usize) -> Query + Send + Sync>;

/// Latencies that are kept exactly: a microsecond to a minute, three digits.
const LONGEST_MICROS: u64 = 60_000_000;
const DIGITS: u8 = 3;

/// What one measurement gave.
pub(crate) struct Figures {
    pub(crate) requests: usize,
    pub(crate) elapsed: Duration,
    latencies: Histogram<u64>,
    /// CPU time of each process watched, in the order given.
    pub(crate) cpu: Vec<Duration>,
}

impl Figures {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// In milliseconds.
    pub(crate) fn latency(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// CPU µs a request of the i-th process.
    pub(crate) fn cpu_micros(&self, i: usize) -> f64 {
        self.cpu[i].as_micros() as f64 / self.requests.max(1) as f64
    }
}

/// Every sender sends, waits, sends again.
pub(crate) async fn closed(
    senders: Vec<Sender>,
    queries: &Queries,
    time: Duration,
    watched: &[&Process],
) -> Result<Figures> {
    let next = Arc::new(AtomicUsize::new(0));
    let meter = Meter::start(watched)?;
    let end = meter.started + time;
    let tasks: Vec<_> = senders
        .into_iter()
        .map(|mut sender| {
            let (next, queries) = (next.clone(), queries.clone());
            tokio::spawn(async move {
                let mut latencies = Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)?;
                while Instant::now() < end {
                    let query = queries(next.fetch_add(1, Ordering::Relaxed));
                    let sent = Instant::now();
                    sender.send(query).await?;
                    latencies.saturating_record(sent.elapsed().as_micros() as u64);
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    meter.finish(tasks, watched).await
}

/// Requests arrive at `rate` a second. A latency counts from when its request was due, so that a server that stalls is
/// not spared the requests that it kept from being sent.
pub(crate) async fn open(
    senders: Vec<Sender>,
    queries: &Queries,
    rate: f64,
    time: Duration,
    watched: &[&Process],
) -> Result<Figures> {
    let next = Arc::new(AtomicUsize::new(0));
    let total = (rate * time.as_secs_f64()) as usize;
    let meter = Meter::start(watched)?;
    let arrivals = Arc::new(Arrivals::start(rate)?);
    let tasks: Vec<_> = senders
        .into_iter()
        .map(|mut sender| {
            let (next, queries, arrivals) = (next.clone(), queries.clone(), arrivals.clone());
            tokio::spawn(async move {
                let mut latencies = Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)?;
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= total {
                        return anyhow::Ok(latencies);
                    }
                    let due = arrivals.next().await?;
                    sender.send(queries(i)).await?;
                    latencies.saturating_record(due.elapsed().as_micros() as u64);
                }
            })
        })
        .collect();
    meter.finish(tasks, watched).await
}

struct Meter {
    started: Instant,
    cpu: Vec<Duration>,
}

impl Meter {
    fn start(watched: &[&Process]) -> Result<Self> {
        let cpu = watched.iter().map(|p| p.cpu_time()).collect::<Result<_>>()?;
        Ok(Self { started: Instant::now(), cpu })
    }

    async fn finish(
        self,
        tasks: Vec<tokio::task::JoinHandle<Result<Histogram<u64>>>>,
        watched: &[&Process],
    ) -> Result<Figures> {
        let mut latencies = Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS)?;
        for task in tasks {
            latencies.add(task.await??)?;
        }
        let elapsed = self.started.elapsed();
        let cpu = watched.iter().zip(self.cpu).map(|(p, before)| Ok(p.cpu_time()?.saturating_sub(before)));
        let cpu = cpu.collect::<Result<_>>()?;
        Ok(Figures { requests: latencies.len() as usize, elapsed, latencies, cpu })
    }
}
