//! What a gateway makes of five times the load that what is behind it can serve.
//!
//! A real gateway in front of an upstream of known capacity (so many workers, so long for each search, a queue without an
//! end). First a closed loop finds the peak; then searches of four criticalities arrive at five times its rate, whatever
//! becomes of them, each counted from when it was due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use nearfield_testkit::{Claims, Client, Cluster, ClusterOptions, PacedUpstream, Protocol};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::Arguments;
use crate::table::Table;

/// How many times the peak.
const FACTOR: f64 = 5.0;
/// Connections of the load generator; HTTP/2 carries 100 requests on each at once.
const CONNECTIONS: usize = 32;
/// Requests that the generator has open at once; an arrival past it is not sent and counts as its own failure.
const MAX_OPEN: usize = CONNECTIONS * 100;
/// Goodput and latency are looked at in slices of this length to see when they have settled.
const SLICE: Duration = Duration::from_millis(500);
/// Latencies that are kept exactly: a microsecond to a minute, three digits.
const LONGEST_MICROS: u64 = 60_000_000;
/// What the gateway is given to give its memory back.
const REST: Duration = Duration::from_secs(10);

const GOAL_GOODPUT: f64 = 0.95;
const GOAL_CRITICAL: f64 = 0.999;
const GOAL_LATENCY: f64 = 2.0;
const GOAL_SETTLED: Duration = Duration::from_secs(3);

/// Of twenty arrivals, how many are of each criticality, and the plan and the header that make them so.
const MIX: [(&str, usize); 4] = [("critical", 1), ("high", 2), ("normal", 12), ("sheddable", 5)];

#[derive(Clone, Copy)]
struct Outcome {
    criticality: usize,
    /// From the beginning of the load to the answer.
    at: Duration,
    latency: Duration,
    status: u16,
}

struct Load {
    cluster: Cluster,
    upstream: PacedUpstream,
    /// One client for each criticality and connection.
    clients: Vec<Vec<Client>>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let load = Load::start(arguments).await?;
    let peak = load.peak(arguments.time, arguments.workers).await?;
    let capacity = arguments.workers as f64 / arguments.service.as_secs_f64();
    println!(
        "{} workers, {:?} each: {capacity:.0} searches a second; measured peak {:.0} a second, p99 {:.1} ms\n",
        arguments.workers,
        arguments.service,
        peak.rate,
        peak.p99.as_secs_f64() * 1e3
    );
    let before = load.cluster.gateway().resident_bytes()?;
    let cpu = load.cluster.gateway().cpu_time()?;
    let (outcomes, unsent) = load.storm(peak.rate * FACTOR, arguments.time).await?;
    let after = load.cluster.gateway().resident_bytes()?;
    let cpu = load.cluster.gateway().cpu_time()?.saturating_sub(cpu);
    report(&outcomes, unsent, &peak, arguments.time);
    let asked = load.upstream.asked();
    tokio::time::sleep(REST).await;
    let rested = load.cluster.gateway().resident_bytes()?;
    println!(
        "gateway: {:.0} CPU µs a request, refusals included; resident MiB before {}, after {}, {REST:?} later {}; upstream asked {asked} times\n",
        cpu.as_micros() as f64 / outcomes.len().max(1) as f64,
        before >> 20,
        after >> 20,
        rested >> 20
    );
    Ok(())
}

struct Peak {
    rate: f64,
    p99: Duration,
}

impl Load {
    async fn start(arguments: &Arguments) -> Result<Self> {
        let upstream = PacedUpstream::start(arguments.workers, arguments.service).await?;
        let plans = "{standard={user_per_second=100,tenant_per_second=1000},\
                     high={user_per_second=100,tenant_per_second=1000,criticality=\"high\"},\
                     critical={user_per_second=100,tenant_per_second=1000,criticality=\"critical\"}}";
        let cluster = Cluster::start(&ClusterOptions {
            searchds: 0,
            upstreams: vec![upstream.url().to_owned()],
            gateway: vec![
                ("NEARFIELD_LOG__LEVEL", "warn"),
                ("NEARFIELD_RATE_LIMIT__PLANS", plans),
                // The capacity here is that of a small searchd, and calls are to take twice as long as alone at most,
                // waiting for a place included.
                ("NEARFIELD_SHED__ADAPTIVE__FLOOR", "4"),
                ("NEARFIELD_SHED__ADAPTIVE__TOLERANCE", "1.2"),
            ],
            ..ClusterOptions::default()
        })?;
        let mut clients = Vec::new();
        for (name, _) in MIX {
            let plan = if matches!(name, "critical" | "high") { name } else { "standard" };
            let claims = Claims { plan: Some(plan.to_owned()), expires_in: 3600, ..Claims::all() };
            let client = cluster.client_as(Protocol::Http2, &claims)?.with_header("nearfield-criticality", name);
            clients.push((0..CONNECTIONS).map(|_| client.separate()).collect());
        }
        Ok(Self { cluster, upstream, clients })
    }

    /// As many in flight as there are workers: all that can be served, without a queue.
    async fn peak(&self, time: Duration, workers: usize) -> Result<Peak> {
        let normal = MIX.iter().position(|(name, _)| *name == "normal").context("it is in the mix")?;
        let end = Instant::now() + time;
        let tasks: Vec<_> = (0..workers)
            .map(|worker| {
                let client = self.clients[normal][worker % CONNECTIONS].clone();
                tokio::spawn(async move {
                    let mut latencies = Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, 3)?;
                    let mut number = worker << 32;
                    while Instant::now() < end {
                        let sent = Instant::now();
                        ensure!(search(&client, number).await? == 200, "a search was refused before the overload");
                        latencies.saturating_record(sent.elapsed().as_micros() as u64);
                        number += 1;
                    }
                    Ok(latencies)
                })
            })
            .collect();
        let mut latencies = Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, 3)?;
        for task in tasks {
            latencies.add(task.await??)?;
        }
        let rate = latencies.len() as f64 / time.as_secs_f64();
        Ok(Peak { rate, p99: Duration::from_micros(latencies.value_at_quantile(0.99)) })
    }

    /// Arrivals at `rate` a second; what became of them, and how many the generator itself could not send.
    async fn storm(&self, rate: f64, time: Duration) -> Result<(Vec<Outcome>, usize)> {
        let total = (rate * time.as_secs_f64()) as usize;
        let open = Arc::new(Semaphore::new(MAX_OPEN));
        let (outcomes, mut ended) = mpsc::unbounded_channel();
        let (began, mut unsent) = (Instant::now(), 0);
        for number in 0..total {
            let due = began + Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
            let Ok(permit) = open.clone().try_acquire_owned() else {
                unsent += 1;
                continue;
            };
            let criticality = criticality(number);
            let client = self.clients[criticality][number % CONNECTIONS].clone();
            let outcomes = outcomes.clone();
            tokio::spawn(async move {
                let status = search(&client, (1 << 40) + number).await.unwrap_or(0);
                let outcome = Outcome { criticality, at: began.elapsed(), latency: due.elapsed(), status };
                drop(permit);
                // The receiver stays until all senders have gone.
                let _ = outcomes.send(outcome);
            });
        }
        drop(outcomes);
        let mut all = Vec::with_capacity(total);
        while let Some(outcome) = ended.recv().await {
            all.push(outcome);
        }
        Ok((all, unsent))
    }
}

/// A search that was never asked before.
async fn search(client: &Client, number: usize) -> Result<u16> {
    // Vectors hold f32: exact up to 24 bits.
    let query = [(number & 0xf_ffff) as f64, (number >> 20) as f64];
    let body = json!({"collection": "overload", "query": query, "k": 1});
    let answer = client.post("/api/v1/search").json(&body).send().await?;
    Ok(answer.status.as_u16())
}

/// Spread evenly: 7 and 20 have no common divisor.
fn criticality(number: usize) -> usize {
    let mut place = number * 7 % 20;
    MIX.iter()
        .position(|(_, share)| {
            let here = place < *share;
            place = place.wrapping_sub(*share);
            here
        })
        .unwrap_or(0)
}

fn report(outcomes: &[Outcome], unsent: usize, peak: &Peak, time: Duration) {
    let mut table = Table::new(&["criticality", "sent", "served", "refused", "failed", "served %", "p50 ms", "p99 ms"]);
    for (index, (name, _)) in MIX.iter().enumerate() {
        let of =
            |wanted: fn(u16) -> bool| outcomes.iter().filter(|o| o.criticality == index && wanted(o.status)).count();
        let (sent, served) = (of(|_| true), of(|status| status == 200));
        table.row([
            (*name).to_owned(),
            sent.to_string(),
            served.to_string(),
            of(|status| status == 503).to_string(),
            of(|status| status != 200 && status != 503).to_string(),
            format!("{:.2}", 100.0 * served as f64 / sent.max(1) as f64),
            format!("{:.1}", quantile(outcomes.iter().filter(|o| o.criticality == index), 0.5)),
            format!("{:.1}", quantile(outcomes.iter().filter(|o| o.criticality == index), 0.99)),
        ]);
    }
    table.print();
    let served = outcomes.iter().filter(|o| o.status == 200 && o.at <= time).count();
    let goodput = served as f64 / time.as_secs_f64() / peak.rate;
    let critical: Vec<_> = outcomes.iter().filter(|o| o.criticality == 0).collect();
    let saved = critical.iter().filter(|o| o.status == 200).count() as f64 / critical.len().max(1) as f64;
    let settled = settled(outcomes, peak, time);
    let late = quantile(outcomes.iter().filter(|o| o.at > settled), 0.99) / (peak.p99.as_secs_f64() * 1e3);
    let mut goals = Table::new(&["five times the peak", "measured", "goal", "met"]);
    let mut row = |what: &str, measured: String, goal: String, met: bool| {
        goals.row([what.to_owned(), measured, goal, if met { "yes" } else { "no" }.to_owned()]);
    };
    let share = |share: f64| format!("{:.1} %", share * 100.0);
    row("goodput of the peak", share(goodput), format!("≥ {}", share(GOAL_GOODPUT)), goodput >= GOAL_GOODPUT);
    row("critical served", format!("{:.2} %", saved * 100.0), "≥ 99.90 %".to_owned(), saved >= GOAL_CRITICAL);
    row("p99 of those served, to the peak's", format!("{late:.2}"), format!("≤ {GOAL_LATENCY}"), late <= GOAL_LATENCY);
    let met = settled <= GOAL_SETTLED;
    row("settled after", format!("{settled:?}"), format!("< {GOAL_SETTLED:?}"), met);
    goals.print();
    if unsent > 0 {
        println!("{unsent} arrivals were not sent: the load generator had {MAX_OPEN} requests open\n");
    }
}

/// The end of the last slice whose goodput or latency missed its goal.
fn settled(outcomes: &[Outcome], peak: &Peak, time: Duration) -> Duration {
    let slices = (time.as_secs_f64() / SLICE.as_secs_f64()) as u32;
    let bad = (0..slices).rev().find(|slice| {
        let within = SLICE * *slice..SLICE * (*slice + 1);
        let served = || outcomes.iter().filter(|o| within.contains(&o.at) && o.status == 200);
        let goodput = served().count() as f64 / SLICE.as_secs_f64() / peak.rate;
        // A slice has fewer answers than the whole: a tenth is noise.
        goodput < GOAL_GOODPUT * 0.9 || quantile(served(), 0.99) > GOAL_LATENCY * peak.p99.as_secs_f64() * 1e3
    });
    bad.map_or(Duration::ZERO, |slice| SLICE * (slice + 1))
}

/// Milliseconds of those that were served.
fn quantile<'a>(outcomes: impl Iterator<Item = &'a Outcome>, quantile: f64) -> f64 {
    let mut served: Vec<f64> = outcomes.filter(|o| o.status == 200).map(|o| o.latency.as_secs_f64() * 1e3).collect();
    served.sort_by(f64::total_cmp);
    let rank = (quantile * served.len() as f64).ceil() as usize;
    served.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}
