//! A place in a room, held for as long as a call is in flight.

use std::time::Duration;

use tokio::time::Instant;

use super::super::criticality::Criticality;
use super::Room;

/// A call that began.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) at: Instant,
    pub(super) criticality: Criticality,
    /// In flight then, itself included.
    pub(super) beside: usize,
}

/// A call's place. Dropped, it is free for the next.
pub struct Place {
    room: Room,
    begun: Begun,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// The call has not been answered.
    Open,
    Answered,
    /// It never was a place.
    Void,
}

impl Place {
    pub(super) fn new(room: Room, begun: Begun) -> Self {
        Self { room, begun, state: State::Open }
    }

    /// The head of the answer is there: what follows is the client's pace.
    pub fn answered(&mut self) {
        if self.state == State::Open {
            self.state = State::Answered;
            self.room.0.state.lock().record(self.took(), self.begun.beside);
        }
    }

    /// Nobody was there to take it: the room, which is locked, counts it out itself.
    pub(super) fn forget(mut self) {
        self.state = State::Void;
    }

    fn took(&self) -> Duration {
        self.begun.at.elapsed()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.state {
            State::Answered => self.room.leave(self.begun, None),
            State::Void => {}
            // Given up, or failed: nothing to learn from, unless it took too long.
            State::Open => {
                let took = self.took();
                let baseline = self.room.0.state.lock().gradient.baseline();
                self.room.leave(self.begun, baseline.is_some_and(|usual| took.as_secs_f64() > usual).then_some(took));
            }
        }
    }
}
