//! What this process may use of the machine, and how much of it is used: by its cgroup (v2) where that sets a limit, by the
//! machine where it does not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;

/// Where cgroup v2 is mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The memory under the tightest limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

impl Memory {
    /// None where neither cgroup v2 nor /proc/meminfo is what Linux shows.
    pub fn read() -> Option<Self> {
        let of_group = |group: &PathBuf| {
            let read = |file: &str| fs::read_to_string(group.join(file)).ok();
            Self::of_group(&read("memory.max")?, &read("memory.current")?, &read("memory.stat")?)
        };
        let groups = groups();
        let machine = Self::of_machine(&fs::read_to_string("/proc/meminfo").ok()?);
        groups.iter().filter_map(of_group).chain(machine).max_by(|a, b| a.share().total_cmp(&b.share()))
    }

    /// Of what may be used, 0 to 1.
    pub fn share(self) -> f64 {
        self.used_bytes as f64 / self.limit_bytes.max(1) as f64
    }

    /// Pages of files that nobody has looked at lately are there for the taking: they do not count as used.
    fn of_group(max: &str, current: &str, stat: &str) -> Option<Self> {
        let limit_bytes = max.trim().parse().ok()?;
        let used: u64 = current.trim().parse().ok()?;
        let inactive = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
        let inactive: u64 = inactive.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
        Some(Self { used_bytes: used.saturating_sub(inactive), limit_bytes })
    }

    fn of_machine(meminfo: &str) -> Option<Self> {
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        };
        let limit_bytes = kib("MemTotal")? << 10;
        Some(Self { used_bytes: limit_bytes.saturating_sub(kib("MemAvailable")? << 10), limit_bytes })
    }
}

/// CPUs' worth of time that this process may use at once: a cgroup's quota, or all that it may run on.
pub fn cpus() -> f64 {
    let quota = |group: &PathBuf| quota(&fs::read_to_string(group.join("cpu.max")).ok()?);
    let machine = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    groups().iter().filter_map(quota).fold(machine, f64::min)
}

/// User and system time of this process since its start.
pub fn cpu_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which the call fills.
    #[allow(unsafe_code)]
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let time = Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?);
    (status == 0).then_some(time)
}

/// `cpu.max` is "max 100000", or quota and period in microseconds.
fn quota(cpu_max: &str) -> Option<f64> {
    let (quota, period) = cpu_max.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

/// This process's cgroup and those around it; a limit of any holds.
fn groups() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let mount = Path::new(MOUNT);
    let own = mount.join(path.trim_start_matches('/'));
    own.ancestors().take_while(|group| group.starts_with(mount)).map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_memory_is_what_cannot_be_taken_back() {
        let stat = "anon 700\ninactive_file 200\nactive_file 100\n";
        let memory = Memory::of_group("1000\n", "1000\n", stat);
        assert_eq!(memory, Some(Memory { used_bytes: 800, limit_bytes: 1000 }));
        assert_eq!(Memory::of_group("max\n", "1000\n", stat), None);
        assert_eq!(Memory::of_group("1000", "", stat), None);
    }

    #[test]
    fn a_machines_memory_is_what_is_not_available() {
        let meminfo = "MemTotal:       2000 kB\nMemFree:         100 kB\nMemAvailable:    500 kB\n";
        let memory = Memory::of_machine(meminfo).expect("it is whole");
        assert_eq!((memory.used_bytes, memory.limit_bytes), (1500 << 10, 2000 << 10));
        assert!((memory.share() - 0.75).abs() < 1e-9);
        assert_eq!(Memory::of_machine("MemTotal: 2000 kB\n"), None);
    }

    #[test]
    fn a_quota_is_in_cpus() {
        assert_eq!(quota("max 100000\n"), None);
        assert_eq!(quota("150000 100000\n"), Some(1.5));
        assert_eq!(quota("150000 0\n"), None);
    }

    #[test]
    fn this_process_has_all_three() {
        assert!(cpus() > 0.0);
        assert!(cpu_time().is_some_and(|time| !time.is_zero()));
        assert!(Memory::read().is_some_and(|memory| memory.share() > 0.0));
    }
}
