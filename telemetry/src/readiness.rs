//! Whether this process wants traffic. Load balancers ask `/health/ready`; the answer is one shared value, so that the
//! admin port, the public port and the gRPC health service can't disagree.

use std::sync::Arc;

use tokio::sync::watch;

/// Where a process stands between its start and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet: loading, replaying, connecting.
    Starting,
    Ready,
    /// Up, but it could not answer: the text says what it lacks.
    Unready(&'static str),
    /// Finishing what was admitted; nothing new, please. Final.
    Draining,
}

impl State {
    /// The word in the health answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Unready(_) => "unready",
        }
    }
}

/// A cheap handle; clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::Starting)) }
    }
}

impl Readiness {
    /// Starting.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub fn is_ready(&self) -> bool {
        *self.state.borrow() == State::Ready
    }

    /// Moves to `state`. A drain is final: nothing leads out of it.
    pub fn set(&self, state: State) {
        self.state.send_if_modified(|current| {
            let changes = *current != State::Draining && *current != state;
            if changes {
                *current = state;
            }
            changes
        });
    }

    /// Sees every later state; the last one when several came in between.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_final() {
        let readiness = Readiness::new();
        assert_eq!(readiness.state(), State::Starting);
        readiness.set(State::Ready);
        assert!(readiness.is_ready());
        readiness.set(State::Draining);
        readiness.set(State::Ready);
        assert_eq!(readiness.state(), State::Draining);
    }

    #[test]
    fn watchers_wake_only_on_a_change() {
        let readiness = Readiness::new();
        let mut watch = readiness.watch();
        watch.mark_unchanged();
        readiness.set(State::Starting);
        assert!(!watch.has_changed().expect("the sender lives"));
        readiness.set(State::Unready("no healthy searchd"));
        assert!(watch.has_changed().expect("the sender lives"));
    }
}
