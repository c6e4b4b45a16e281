//! One question, asked once: whoever asks what is being asked already waits for that answer.
//!
//! The one that asks (the leader) runs as a task of its own, so that a client that goes away takes nobody's answer with
//! it. Those that wait are woken by the answer; there is no polling.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use futures::future::{FutureExt, Shared};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::Instrument;

/// Questions in flight at once; beyond, each is asked for itself.
const MAX_FLIGHTS: usize = 10_000;

/// The leader ended without an answer: it panicked, or its runtime went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request that was waited for ended without an answer")]
pub struct Lost;

type Landing<T> = Shared<oneshot::Receiver<T>>;

/// A cheap handle; clones coalesce together.
pub struct Coalescer<K, T> {
    flights: Arc<Mutex<HashMap<K, Landing<T>>>>,
}

impl<K, T> Clone for Coalescer<K, T> {
    fn clone(&self) -> Self {
        Self { flights: Arc::clone(&self.flights) }
    }
}

impl<K, T> Default for Coalescer<K, T> {
    fn default() -> Self {
        Self { flights: Arc::default() }
    }
}

/// An answer that is on its way.
pub struct Flight<T> {
    landing: Landing<T>,
    /// Somebody else asked.
    pub joined: bool,
}

impl<T: Clone> Flight<T> {
    pub async fn landed(self) -> Result<T, Lost> {
        self.landing.await.map_err(|_| Lost)
    }
}

impl<K, T> Coalescer<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the flight of `key`, or begins it: `ask` is called at once, and what it returns runs to its end on the
    /// current runtime, whether or not anyone still waits.
    pub fn fly<F>(&self, key: K, ask: impl FnOnce() -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (answer, landing) = {
            let mut flights = self.flights.lock();
            if let Some(landing) = flights.get(&key) {
                return Flight { landing: landing.clone(), joined: true };
            }
            let (answer, landing) = oneshot::channel();
            let landing = landing.shared();
            if flights.len() < MAX_FLIGHTS {
                flights.insert(key.clone(), landing.clone());
            }
            (answer, landing)
        };
        let cleared = Clear { flights: Arc::clone(&self.flights), key, landing: landing.clone() };
        // In its caller's trace, whose task this is not. A task that holds it in place would be moved with it, several times on its way.
        let asked = Box::pin(ask().in_current_span());
        tokio::spawn(async move {
            let outcome = asked.await;
            // Off the list before the answer is out: who comes after this asks anew.
            drop(cleared);
            let _ = answer.send(outcome);
        });
        Flight { landing, joined: false }
    }

    pub fn in_flight(&self) -> usize {
        self.flights.lock().len()
    }
}

/// Takes a flight off the list, however it ends.
struct Clear<K: Eq + Hash, T> {
    flights: Arc<Mutex<HashMap<K, Landing<T>>>>,
    key: K,
    landing: Landing<T>,
}

impl<K: Eq + Hash, T> Drop for Clear<K, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // Past the bound a flight is not on the list, and another of its key may be.
        if flights.get(&self.key).is_some_and(|listed| listed.ptr_eq(&self.landing)) {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn equal_questions_are_asked_once() {
        let coalescer = Coalescer::<u32, usize>::default();
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let flights: Vec<_> = (0..200)
            .map(|_| {
                let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
                coalescer.fly(7, move || async move {
                    gate.notified().await;
                    asked.fetch_add(1, Ordering::SeqCst) + 1
                })
            })
            .collect();
        assert_eq!(flights.iter().filter(|flight| flight.joined).count(), 199);
        assert_eq!(coalescer.in_flight(), 1);
        gate.notify_one();
        for flight in flights {
            assert_eq!(flight.landed().await, Ok(1));
        }
        assert_eq!(coalescer.in_flight(), 0);
        assert!(!coalescer.fly(7, || async { 0 }).joined);
    }

    #[tokio::test]
    async fn the_leader_outlives_its_client() {
        let coalescer = Coalescer::<u32, &str>::default();
        let gate = Arc::new(Notify::new());
        let opened = Arc::clone(&gate);
        let leader = coalescer.fly(7, move || async move {
            opened.notified().await;
            "answer"
        });
        let follower = coalescer.fly(7, || async { "own" });
        drop(leader);
        gate.notify_one();
        assert_eq!(follower.landed().await, Ok("answer"));
    }

    #[tokio::test]
    async fn a_leader_that_panics_leaves_nobody_waiting() {
        let coalescer = Coalescer::<u32, u32>::default();
        let leader = coalescer.fly(7, || async { panic!("on purpose") });
        let follower = coalescer.fly(7, || async { 1 });
        assert_eq!(leader.landed().await, Err(Lost));
        assert_eq!(follower.landed().await, Err(Lost));
        assert_eq!(coalescer.fly(7, || async { 2 }).landed().await, Ok(2));
    }

    #[tokio::test]
    async fn other_questions_do_not_wait() {
        let coalescer = Coalescer::<u32, u32>::default();
        let _held = coalescer.fly(7, std::future::pending);
        assert_eq!(coalescer.fly(8, || async { 8 }).landed().await, Ok(8));
    }
}
