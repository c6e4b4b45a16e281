//! Looks now and then at what the process uses, and sets what follows from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nearfield_telemetry::allowance::{self, Memory};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::latencies::Latencies;
use super::pressure::{Config, Level, Pressure, Readings};
use crate::listener::door::Door;
use crate::streams::Streams;

/// Why a stream that was idle is closed.
const REASON: &str = "the server is short of memory and the stream was idle";
/// A percentile of fewer reads says nothing.
const MIN_READS: u32 = 100;
/// Reads are gathered for a percentile at most this long; then what is known is forgotten.
const READS_COUNT_FOR: Duration = Duration::from_secs(10);

/// The level of pressure, for those who act on it. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Gauge(Arc<Shown>);

#[derive(Default)]
struct Shown {
    level: AtomicU8,
    readings: Mutex<Readings>,
    reads: Mutex<Latencies>,
    closed_streams: AtomicU64,
}

impl Gauge {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let gauge = Self::default();
        registry.register_collector(Box::new(gauge.clone()));
        gauge
    }

    pub(crate) fn level(&self) -> Level {
        Level::from_number(self.0.level.load(Ordering::Relaxed))
    }

    /// For `/debug`.
    pub(crate) fn view(&self) -> serde_json::Value {
        let readings = *self.0.readings.lock();
        serde_json::json!({
            "level": format!("{:?}", self.level()),
            "cpu": readings.cpu,
            "memory": readings.memory,
            "connections": readings.connections,
            "p99_ms": readings.p99.map(|p99| p99.as_secs_f64() * 1_000.0),
            "streams_closed": self.0.closed_streams.load(Ordering::Relaxed),
        })
    }

    #[cfg(test)]
    pub(crate) fn set(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
    }

    /// A read's answer began.
    pub(super) fn answered(&self, took: Duration) {
        self.0.reads.lock().record(took);
    }
}

/// What is looked at, and what follows is done to.
pub(crate) struct Sampler {
    pub(crate) config: Config,
    pub(crate) gauge: Gauge,
    pub(crate) door: Arc<Door>,
    pub(crate) streams: Streams,
}

/// What has to be remembered between two looks.
struct Look {
    at: Instant,
    cpu: Option<Duration>,
    p99: Option<Duration>,
    p99_at: Instant,
}

impl Sampler {
    /// Until it is dropped, from the level that there is.
    pub(crate) async fn run(self) {
        let mut level = self.gauge.level();
        let mut pressure = Pressure::at(level);
        let now = Instant::now();
        let mut look = Look { at: now, cpu: allowance::cpu_time(), p99: None, p99_at: now };
        let mut ticks = tokio::time::interval(self.config.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let readings = self.read(&mut look, Instant::now());
            *self.gauge.0.readings.lock() = readings;
            let next = pressure.observe(&readings, &self.config);
            if next != level {
                tracing::warn!(from = ?level, to = ?next, ?readings, "pressure changed");
            }
            level = next;
            self.act(level);
        }
    }

    /// Nobody looks any more: nothing follows from what was seen last.
    pub(crate) fn leave(&self) {
        *self.gauge.0.readings.lock() = Readings::default();
        self.act(Level::Calm);
    }

    fn act(&self, level: Level) {
        self.gauge.0.level.store(level as u8, Ordering::Relaxed);
        self.door.shut(level >= Level::Refuse);
        if level >= Level::CloseIdle {
            let closed = self.streams.close_idle(self.config.idle, self.config.close_at_most, REASON);
            self.gauge.0.closed_streams.fetch_add(closed as u64, Ordering::Relaxed);
        }
    }

    fn read(&self, look: &mut Look, now: Instant) -> Readings {
        let cpu_time = allowance::cpu_time();
        let elapsed = now.duration_since(look.at);
        let spent = cpu_time.zip(look.cpu).map(|(now, before)| now.saturating_sub(before));
        // Two looks right after each other say nothing of the time between.
        let cpu = spent
            .filter(|_| elapsed >= self.config.interval / 2)
            .map(|spent| spent.as_secs_f64() / elapsed.as_secs_f64() / allowance::cpus());
        (look.at, look.cpu) = (now, cpu_time);
        let mut reads = self.gauge.0.reads.lock();
        if reads.total() >= MIN_READS {
            (look.p99, look.p99_at) = (Some(reads.quantile(0.99)), now);
            reads.clear();
        } else if now.duration_since(look.p99_at) >= READS_COUNT_FOR {
            (look.p99, look.p99_at) = (None, now);
            reads.clear();
        }
        let memory = Memory::read().map(Memory::share);
        Readings { cpu, memory, connections: self.door.filled(), p99: look.p99 }
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauge")
    }
}

impl Collector for Gauge {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let readings = *self.0.readings.lock();
        let level = ConstGauge::new(u64::from(self.level() as u8));
        let help = "0 calm, 1 users are throttled, 2 idle streams are closed, 3 new connections are refused";
        level.encode(encoder.encode_descriptor("gateway_pressure_level", help, None, level.metric_type())?)?;
        let kind = ConstGauge::new(0.0).metric_type();
        let mut shares = encoder.encode_descriptor("gateway_pressure", "shares in use, 0 to 1", None, kind)?;
        let read = [("cpu", readings.cpu), ("memory", readings.memory), ("connections", Some(readings.connections))];
        for (resource, share) in read {
            let labels = [("resource", resource)];
            ConstGauge::new(share.unwrap_or(0.0)).encode(shares.encode_family(&labels)?)?;
        }
        let p99 = ConstGauge::new(readings.p99.unwrap_or_default().as_secs_f64());
        let help = "99th percentile of the time to the head of a read's answer, over the last reads";
        p99.encode(encoder.encode_descriptor("gateway_pressure_p99_seconds", help, None, p99.metric_type())?)?;
        let closed = ConstCounter::new(self.0.closed_streams.load(Ordering::Relaxed));
        let help = "idle streams closed to have their memory back";
        closed.encode(encoder.encode_descriptor("gateway_streams_shed", help, None, closed.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener;

    fn sampler() -> Sampler {
        Sampler {
            config: Config { interval: Duration::ZERO, idle: Duration::ZERO, ..Config::default() },
            gauge: Gauge::default(),
            door: Arc::new(Door::new(&listener::Config::default(), &[], &mut Registry::default())),
            streams: Streams::default(),
        }
    }

    #[tokio::test]
    async fn each_level_does_what_those_below_it_do_too() {
        let sampler = sampler();
        let idle = sampler.streams.add();
        sampler.act(Level::Throttle);
        assert!(sampler.door.enter().is_some());
        sampler.act(Level::CloseIdle);
        assert_eq!(idle.entry.closing().await, REASON);
        assert!(sampler.door.enter().is_some());
        sampler.act(Level::Refuse);
        assert!(sampler.door.enter().is_none());
        sampler.act(Level::Calm);
        assert!(sampler.door.enter().is_some());
    }

    #[test]
    fn the_percentile_waits_for_reads_and_is_forgotten_when_they_stay_away() {
        let sampler = sampler();
        let now = Instant::now();
        let mut look = Look { at: now, cpu: None, p99: None, p99_at: now };
        let record = |n| (0..n).for_each(|_| sampler.gauge.answered(Duration::from_millis(200)));
        record(MIN_READS - 1);
        assert_eq!(sampler.read(&mut look, now).p99, None);
        record(1);
        let p99 = sampler.read(&mut look, now).p99.unwrap();
        assert!(p99 >= Duration::from_millis(200), "{p99:?}");
        assert_eq!(sampler.read(&mut look, now + READS_COUNT_FOR / 2).p99, Some(p99));
        assert_eq!(sampler.read(&mut look, now + READS_COUNT_FOR).p99, None);
    }
}
