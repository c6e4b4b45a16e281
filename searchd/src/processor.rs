//! What a thread has had of the processor.

use std::time::Duration;

/// User and system time of this thread since it began; nothing where the system does not tell.
pub(crate) fn time_of_thread() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which the call fills.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Pages that this thread has waited for the disk to bring, since it began; none where the system does not tell.
pub(crate) fn faults_of_thread() -> u64 {
    // SAFETY: all zeroes are a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a struct of ours, which the call fills.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_majflt as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_time_goes_on_while_it_works() {
        let (before, start) = (time_of_thread(), std::time::Instant::now());
        while time_of_thread() <= before && start.elapsed() < Duration::from_secs(10) {
            std::hint::spin_loop();
        }
        assert!(time_of_thread() > before);
    }
}
