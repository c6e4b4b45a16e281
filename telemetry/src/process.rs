//! What the kernel knows of this process, read from /proc when a scrape asks: CPU time, resident memory, open files and
//! the start time, under the names that Prometheus client libraries agreed on.

use std::fmt;

use fs_err as fs;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// Adds the `process_*` metrics to `registry`.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
}

/// One reading of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// User and system time since the start.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub open_fds: u64,
    /// Since the Unix epoch.
    pub start_time_seconds: f64,
}

impl Usage {
    /// None where /proc is not what Linux shows.
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let system = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let stat = Stat::parse(&stat)?;
        let ticks = sysconf(libc::_SC_CLK_TCK)?;
        Some(Self {
            cpu_seconds: stat.cpu_ticks as f64 / ticks,
            resident_bytes: stat.resident_pages * sysconf(libc::_SC_PAGESIZE)? as u64,
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
            start_time_seconds: boot + stat.start_ticks as f64 / ticks,
        })
    }
}

fn sysconf(name: libc::c_int) -> Option<f64> {
    // SAFETY: sysconf takes a number and reads no memory of ours.
    #[allow(unsafe_code)]
    let value = unsafe { libc::sysconf(name) };
    (value > 0).then_some(value as f64)
}

struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    /// proc(5). The second field is the program's name in parentheses and may hold anything, so counting starts behind
    /// the last `)`: the third field of the manual is the first here.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)?, resident_pages: field(24)? })
    }
}

struct Process;

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Process")
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(usage) = Usage::read() else { return Ok(()) };
        let cpu = ConstCounter::new(usage.cpu_seconds);
        encode(&mut encoder, "process_cpu", "User and system CPU time spent", Some(&Unit::Seconds), &cpu)?;
        let resident = ConstGauge::new(usage.resident_bytes as f64);
        encode(&mut encoder, "process_resident_memory", "Resident memory", Some(&Unit::Bytes), &resident)?;
        let fds = ConstGauge::new(usage.open_fds as f64);
        encode(&mut encoder, "process_open_fds", "Open file descriptors", None, &fds)?;
        let start = ConstGauge::new(usage.start_time_seconds);
        encode(&mut encoder, "process_start_time", "Start, since the Unix epoch", Some(&Unit::Seconds), &start)
    }
}

fn encode(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_hold_spaces_and_parentheses() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 9 0 12345 4096 77 18446744073709551615";
        let stat = Stat::parse(line).expect("a whole line");
        assert_eq!((stat.cpu_ticks, stat.start_ticks, stat.resident_pages), (300, 12345, 77));
    }

    #[test]
    fn a_scrape_shows_this_process() {
        let mut registry = Registry::default();
        register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a string");
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_start_time_seconds ",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
