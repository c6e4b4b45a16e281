//! Work that comes after searches, on threads of a lower priority.
//!
//! Two things are said of most. By its nice value such a thread gets a small share where there is more to be done than there
//! are processors. And by a longer slice (Linux 6.12 and later) it is not protected from whoever wakes: a search or its answer,
//! which run for less, need not wait until a millisecond or more of it is over.
//!
//! What takes seconds has what is left over. That is more than a smaller share: a processor that does nothing else counts
//! as idle, and whoever wakes comes there. Beside a thread that is merely nice two searches may find themselves on the other processor,
//! and stay there for tens of milliseconds, taking turns. But where nothing is left over it would never be done: so searches
//! leave something while there is such work ([`is_left_over`], [`crate::search::pool`]).
//!
//! A priority once lowered is not given back, and whoever holds a lock that others wait for must not be put off: so what is
//! long is done on a thread of its own, and what needs the lock by whoever waits for that.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A slice longer than that of other threads, some three milliseconds at most, in nanoseconds; and no longer than that: whoever was
/// put off in the middle of what others wait for, a mapping that the kernel changes say, waits behind those of its own priority.
#[cfg(target_os = "linux")]
const SLICE: u64 = 10_000_000;

/// Work that is done with what is left over, of all of this process.
static LEFT_OVER: AtomicUsize = AtomicUsize::new(0);

/// Whether something is being done with what is left over.
pub fn is_left_over() -> bool {
    LEFT_OVER.load(Ordering::Relaxed) > 0
}

/// Counts work that is done with what is left over.
struct LeftOver;

impl LeftOver {
    fn begin() -> Self {
        LEFT_OVER.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for LeftOver {
    fn drop(&mut self) {
        LEFT_OVER.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a thread comes after others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// With a small share, by its nice value.
    Nice(i32),
    /// With what nobody else wants.
    LeftOver,
}

/// The nice value of what is left over where a system knows nothing less.
const LAST: i32 = 19;

/// Gives this thread, and those that it starts from now on, a priority and a long slice. Failing leaves the priority alone.
pub fn lower(priority: Priority) {
    let niceness = match priority {
        Priority::Nice(niceness) => niceness,
        Priority::LeftOver => LAST,
    };
    // SAFETY: the call takes numbers and touches no memory; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    #[cfg(target_os = "linux")]
    set_attributes(priority, niceness);
}

#[cfg(target_os = "linux")]
fn set_attributes(priority: Priority, niceness: i32) {
    let policy = match priority {
        Priority::Nice(_) => libc::SCHED_OTHER,
        Priority::LeftOver => libc::SCHED_IDLE,
    };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy as u32,
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

/// Does `work` on a thread of this priority, and waits for it.
///
/// # Panics
/// When `work` does, or there is no thread to be had.
pub fn lowered<T: Send>(priority: Priority, work: impl FnOnce() -> T + Send) -> T {
    let _counted = (priority == Priority::LeftOver).then(LeftOver::begin);
    let lowered = || {
        lower(priority);
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
            lowered(Priority::Nice(lower), || (nice(), std::thread::scope(|scope| scope.spawn(nice).join().unwrap())));
        assert_eq!((inside, started, nice()), (lower, lower, before));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_left_over_is_what_threads_of_such_a_thread_get_as_well() {
        // SAFETY: a number alone; 0 is the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let (inside, started) =
            lowered(Priority::LeftOver, || (policy(), std::thread::scope(|scope| scope.spawn(policy).join().unwrap())));
        assert_eq!((inside, started), (libc::SCHED_IDLE, libc::SCHED_IDLE));
        assert_eq!(policy(), libc::SCHED_OTHER, "whoever waits for it is not put off");
    }
}
