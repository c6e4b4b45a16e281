//! The threads on which searches run: a fixed number, apart from the reactor, fed by a bounded queue.
//!
//! A search computes for milliseconds and may wait for a page from the disk; on the reactor it would hold up everyone. One that is
//! known to do neither, when there is nobody to be held up, is done where it was asked for ([`Pool::run_here`]): handing it
//! over would cost as much again.
//!
//! What is done behind the scenes has what searches leave over. They leave something: a thread that had no rest for a while takes
//! one, as long as somebody is waiting for it, one thread at a time. Without it a load that takes all there is would grow slower and
//! slower by what is never indexed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::load::{Load, Meter};
use super::stop::Stop;
use crate::priority;

/// Work of one thread without a pause after which it takes a rest, and that rest: a twentieth of its time, and short enough for those
/// who wait meanwhile.
const TURN: Duration = Duration::from_millis(57);
const REST: Duration = Duration::from_millis(3);

/// The queue is full: refuse rather than let everyone wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("too many searches are waiting")]
    Full,
    #[error("the search ended without an answer")]
    Lost,
}

struct Job {
    queued: Instant,
    work: Box<dyn FnOnce() + Send>,
}

/// Threads end when the last handle is dropped.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    /// Handles; the threads themselves hold none.
    _handle: Arc<Handle>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// One for each thread, by which it is called.
    calls: Box<[Condvar]>,
    capacity: usize,
    busy: AtomicUsize,
    /// A thread takes a rest, though there is work for it.
    is_giving_way: AtomicBool,
    /// Rests that threads took though there was work for them.
    rests: AtomicU64,
    /// Jobs that were done where they were asked for.
    done_here: AtomicU64,
    meter: Meter,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that have nothing to do. The one that came last is called first: the caches know what it works with.
    resting: Vec<usize>,
    closed: bool,
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        for call in &self.0.calls {
            call.notify_one();
        }
    }
}

impl Pool {
    pub fn start(threads: usize, capacity: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            calls: (0..threads).map(|_| Condvar::new()).collect(),
            capacity,
            busy: AtomicUsize::new(0),
            is_giving_way: AtomicBool::new(false),
            rests: AtomicU64::new(0),
            done_here: AtomicU64::new(0),
            meter: Meter::new(threads, Instant::now()),
        });
        let handle = Arc::new(Handle(shared.clone()));
        for thread in 0..threads {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("search-{thread}")).spawn(move || shared.run(thread))?;
        }
        Ok(Self { shared, _handle: handle })
    }

    /// Runs `work` on a thread of the pool. A caller that goes away stops it: the token is cancelled when the returned
    /// future is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce(&Stop) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let stop = Stop { deadline, ..Stop::default() };
        let _cancel = stop.cancelled.clone().drop_guard();
        let (reply, answer) = oneshot::channel();
        let work = Box::new(move || {
            let _ = reply.send(work(&stop));
        });
        let queued = Instant::now();
        self.shared.meter.asked(queued);
        self.shared.push(Job { queued, work })?;
        answer.await.map_err(|_| Error::Lost)
    }

    /// Runs `work` on this thread, which is the caller's.
    pub fn run_here<T>(&self, deadline: Option<Instant>, work: impl FnOnce(&Stop) -> T) -> Result<T, Error> {
        let stop = Stop { deadline, ..Stop::default() };
        self.shared.meter.asked(Instant::now());
        self.shared.done_here.fetch_add(1, Ordering::Relaxed);
        self.shared.work(|| work(&stop)).ok_or(Error::Lost)
    }

    pub fn threads(&self) -> usize {
        self.shared.calls.len()
    }

    /// Whether something was asked for a moment ago.
    pub fn is_asked(&self) -> bool {
        self.shared.meter.is_asked(Instant::now())
    }

    /// Whether nothing runs, and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.jobs() == (0, 0)
    }

    /// Searches that wait, and searches that run.
    pub fn jobs(&self) -> (usize, usize) {
        (self.shared.queue.lock().jobs.len(), self.shared.busy.load(Ordering::Relaxed))
    }

    /// Jobs that were done by [`Pool::run_here`].
    pub fn done_here(&self) -> u64 {
        self.shared.done_here.load(Ordering::Relaxed)
    }

    /// Rests that threads took, though there was work for them, for what is done behind the scenes.
    pub fn rests(&self) -> u64 {
        self.shared.rests.load(Ordering::Relaxed)
    }

    /// How loaded the threads have been lately.
    pub fn load(&self) -> Load {
        self.shared.meter.load(Instant::now())
    }
}

impl Shared {
    fn push(&self, job: Job) -> Result<(), Error> {
        let mut queue = self.queue.lock();
        if queue.jobs.len() >= self.capacity {
            return Err(Error::Full);
        }
        queue.jobs.push_back(job);
        // Where nobody rests, whoever is done first sees it.
        let called = queue.resting.pop();
        drop(queue);
        if let Some(thread) = called {
            self.calls[thread].notify_one();
        }
        Ok(())
    }

    fn run(&self, thread: usize) {
        let mut since = Instant::now();
        while let Some((job, has_rested)) = self.next(thread) {
            self.meter.waited(job.queued.elapsed());
            if has_rested {
                since = Instant::now();
            }
            // Its caller is told.
            let _ = self.work(job.work);
            if since.elapsed() >= TURN && self.give_way() {
                since = Instant::now();
            }
        }
    }

    /// Takes a rest where somebody waits for it and no other thread does; whether it did.
    fn give_way(&self) -> bool {
        let gives_way = priority::is_left_over() && !self.is_giving_way.swap(true, Ordering::AcqRel);
        if gives_way {
            self.rests.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(REST);
            self.is_giving_way.store(false, Ordering::Release);
        }
        gives_way
    }

    /// None when it panicked, which is a bug of one search: the thread and its neighbours go on.
    fn work<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let started = Instant::now();
        self.busy.fetch_add(1, Ordering::Relaxed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        self.busy.fetch_sub(1, Ordering::Relaxed);
        self.meter.worked(started.elapsed());
        if outcome.is_err() {
            tracing::error!("a search panicked");
        }
        outcome.ok()
    }

    /// The next job, and whether the thread had to wait for it.
    fn next(&self, thread: usize) -> Option<(Job, bool)> {
        let mut queue = self.queue.lock();
        let mut has_rested = false;
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some((job, has_rested));
            }
            if queue.closed {
                return None;
            }
            has_rested = true;
            queue.resting.push(thread);
            while queue.resting.contains(&thread) && !queue.closed {
                self.calls[thread].wait(&mut queue);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::{StreamExt, stream};

    use super::*;
    use crate::priority::Priority;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_panic_costs_one_answer() {
        let pool = Pool::start(1, 1).unwrap();
        assert_eq!(pool.run(None, |_| panic!("on purpose")).await, Err::<(), _>(Error::Lost));

        let (go, wait) = mpsc::channel::<()>();
        let (running, started) = oneshot::channel();
        let first = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(None, move |_| {
                    running.send(()).unwrap();
                    wait.recv().unwrap();
                })
                .await
            }
        });
        started.await.unwrap();
        let mut second = Box::pin(pool.run(None, |stop| stop.check().is_err()));
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(pool.run(None, |_| ()).await, Err(Error::Full));
        assert!(!pool.is_idle());
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        assert_eq!(second.await, Ok(false));
        assert_eq!(pool.run_here(None, |_| panic!("on purpose")), Err::<(), _>(Error::Lost));
        assert_eq!(pool.run_here(None, |stop| stop.check().is_err()), Ok(false));
    }

    #[tokio::test]
    async fn threads_that_are_never_without_work_leave_something_to_what_is_done_behind_the_scenes() {
        let pool = Pool::start(1, 64).unwrap();
        let (done, mut is_done) = oneshot::channel();
        let behind = std::thread::spawn({
            let pool = pool.clone();
            // Lasts until the thread has rested, or the test gives up.
            let has_rested = move || {
                let end = Instant::now() + PATIENCE;
                while pool.rests() == 0 && Instant::now() < end {
                    std::thread::yield_now();
                }
                pool.rests() > 0
            };
            move || done.send(priority::lowered(Priority::LeftOver, has_rested)).unwrap()
        });
        let job = || pool.run(None, |_| std::hint::black_box((0..100_000u64).sum::<u64>()));
        // Some wait whenever one is done.
        let mut jobs = std::pin::pin!(stream::repeat_with(job).buffer_unordered(4));
        let has_rested = loop {
            if let Ok(has_rested) = is_done.try_recv() {
                break has_rested;
            }
            jobs.next().await.unwrap().unwrap();
        };
        assert!(has_rested, "no rest in {PATIENCE:?}");
        behind.join().unwrap();
    }
}
