//! The threads on which searches run: a fixed number, apart from the reactor, fed by a bounded queue.
//!
//! A search computes for milliseconds and may wait for a page from the disk; on the reactor it would hold up everyone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::load::{Load, Meter};
use super::stop::Stop;

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
    wake: Condvar,
    threads: usize,
    capacity: usize,
    busy: AtomicUsize,
    meter: Meter,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.wake.notify_all();
    }
}

impl Pool {
    pub fn start(threads: usize, capacity: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            threads,
            capacity,
            busy: AtomicUsize::new(0),
            meter: Meter::new(threads, Instant::now()),
        });
        let handle = Arc::new(Handle(shared.clone()));
        for i in 0..threads {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("search-{i}")).spawn(move || shared.run())?;
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
        self.shared.push(Job { queued: Instant::now(), work })?;
        answer.await.map_err(|_| Error::Lost)
    }

    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Searches that wait, and searches that run.
    pub fn jobs(&self) -> (usize, usize) {
        (self.shared.queue.lock().jobs.len(), self.shared.busy.load(Ordering::Relaxed))
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
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    fn run(&self) {
        while let Some(job) = self.next() {
            let started = Instant::now();
            self.meter.waited(started - job.queued);
            self.busy.fetch_add(1, Ordering::Relaxed);
            // A panic is a bug of one search; the thread and its neighbours go on, and the caller is told.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job.work));
            self.busy.fetch_sub(1, Ordering::Relaxed);
            self.meter.worked(started.elapsed());
            if outcome.is_err() {
                tracing::error!("a search panicked");
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            self.wake.wait(&mut queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

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
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        assert_eq!(second.await, Ok(false));
    }
}
