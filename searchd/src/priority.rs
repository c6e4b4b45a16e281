//! Work that comes after searches, on threads of a lower priority.
//!
//! Two things are said of them. By its nice value such a thread gets a small share where there is more to be done than there
//! are processors. And by a longer slice (Linux 6.12 and later) it is not protected from whoever wakes: a search or its answer,
//! which run for less, need not wait until a millisecond or more of it is over.
//!
//! A priority once lowered is not given back, and whoever holds a lock that others wait for must not be put off: so what is
//! long is done on a thread of its own, and what needs the lock by whoever waits for that.

/// A slice longer than that of other threads, some three milliseconds at most, in nanoseconds; and no longer than that: whoever was
/// put off in the middle of what others wait for, a mapping that the kernel changes say, waits behind those of its own priority.
#[cfg(target_os = "linux")]
const SLICE: u64 = 10_000_000;

/// Gives this thread, and those that it starts from now on, a nice value and a long slice. Failing leaves the priority alone.
pub fn lower(niceness: i32) {
    // SAFETY: the call takes numbers and touches no memory; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    #[cfg(target_os = "linux")]
    lengthen_slice(niceness);
}

#[cfg(target_os = "linux")]
fn lengthen_slice(niceness: i32) {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: niceness,
        sched_priority: 0,
        sched_runtime: SLICE,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes of the attributes as these say that they have; 0 is the calling thread. An older
    // kernel takes no notice of the slice.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// Does `work` on a thread of this nice value, and waits for it.
///
/// # Panics
/// When `work` does, or there is no thread to be had.
pub fn lowered<T: Send>(niceness: i32, work: impl FnOnce() -> T + Send) -> T {
    let lowered = || {
        lower(niceness);
        work()
    };
    std::thread::scope(|scope| match scope.spawn(lowered).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_put_off_and_whoever_waits_for_it_is_not() {
        // SAFETY: numbers alone; 0 is the calling thread.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let lower = (before + 3).min(19);
        let (inside, started) =
            lowered(lower, || (nice(), std::thread::scope(|scope| scope.spawn(nice).join().unwrap())));
        assert_eq!((inside, started, nice()), (lower, lower, before));
    }
}
