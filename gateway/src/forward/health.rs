//! Is an endpoint well? A state machine over check results; the checks themselves are made by the upstream.
//!
//! Pure: no clock, no network. An endpoint that was never well becomes so by its first good check, so that a start is
//! fast; one that fell ill needs several.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The settings' section `[upstream.health]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Between checks of an endpoint that has not been well yet, or has just refused a connection.
    #[serde(with = "humantime_serde")]
    pub interval_eager: Duration,
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Good checks in a row that make an ill endpoint well.
    pub healthy_after: u32,
    /// Bad checks in a row that make a well one ill.
    pub unhealthy_after: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            interval_eager: Duration::from_secs(1),
            timeout: Duration::from_secs(3),
            healthy_after: 2,
            unhealthy_after: 3,
        }
    }
}

/// What one check, or one call, told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It does not answer its check.
    Failed,
    /// It answers that it takes no new calls.
    NotServing,
    /// A call could not even connect, or was turned away.
    Refused,
    Serving,
}

/// What an endpoint is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It finishes what it has and gets nothing new.
    Draining,
    Healthy,
    /// Well by its checks, but a call was refused: used only when nobody better is there.
    Suspect,
    Unhealthy,
    /// Not checked yet: used as if it were well, so that the first request need not wait for the first check.
    Unknown,
}

/// One endpoint's state.
#[derive(Clone, Copy, Debug)]
pub struct Tracker {
    state: State,
    /// Equal checks in a row: good ones while ill, bad ones while well.
    row: u32,
    was_healthy: bool,
}

impl Default for Tracker {
    fn default() -> Self {
        Self { state: State::Unknown, row: 0, was_healthy: false }
    }
}

impl Tracker {
    pub fn state(&self) -> State {
        self.state
    }

    /// Worth asking again soon: it was never well, or may just have fallen ill.
    pub fn is_eager(&self) -> bool {
        !self.was_healthy || self.state == State::Suspect
    }

    /// Takes in one observation; the new state when it changed.
    pub fn observe(&mut self, observation: Observation, config: &Config) -> Option<State> {
        let before = self.state;
        match (before, observation) {
            (State::Draining, Observation::NotServing) | (State::Unhealthy, Observation::Failed) => self.row = 0,
            (_, Observation::NotServing) => self.become_state(State::Draining),
            (State::Unknown | State::Suspect, Observation::Serving) => self.become_state(State::Healthy),
            (State::Healthy, Observation::Serving) => self.row = 0,
            (State::Draining | State::Unhealthy, Observation::Serving) => {
                self.row += 1;
                if !self.was_healthy || self.row >= config.healthy_after {
                    self.become_state(State::Healthy);
                }
            }
            (State::Unknown, Observation::Failed | Observation::Refused) | (State::Draining, Observation::Failed) => {
                self.become_state(State::Unhealthy)
            }
            (State::Healthy | State::Suspect, Observation::Failed) => {
                self.row += 1;
                if self.row >= config.unhealthy_after {
                    self.become_state(State::Unhealthy);
                }
            }
            (State::Healthy, Observation::Refused) => {
                // The row of bad checks goes on: a refused call is one.
                self.state = State::Suspect;
                self.row += 1;
            }
            (State::Draining | State::Suspect | State::Unhealthy, Observation::Refused) => {}
        }
        (self.state != before).then_some(self.state)
    }

    fn become_state(&mut self, state: State) {
        self.state = state;
        self.row = 0;
        self.was_healthy |= state == State::Healthy;
    }
}

#[cfg(test)]
mod tests {
    use super::Observation::{Failed, NotServing, Refused, Serving};
    use super::*;

    fn check(observations: &[Observation], expected: State) {
        let mut tracker = Tracker::default();
        for observation in observations {
            tracker.observe(*observation, &Config::default());
        }
        assert_eq!(tracker.state(), expected, "{observations:?}");
    }

    #[test]
    fn the_first_good_check_suffices() {
        check(&[], State::Unknown);
        check(&[Serving], State::Healthy);
        check(&[Failed, Failed, Serving], State::Healthy);
    }

    #[test]
    fn three_bad_checks_make_ill_and_two_good_ones_well() {
        check(&[Serving, Failed, Failed], State::Healthy);
        check(&[Serving, Failed, Failed, Serving, Failed, Failed], State::Healthy);
        check(&[Serving, Failed, Failed, Failed], State::Unhealthy);
        check(&[Serving, Failed, Failed, Failed, Serving], State::Unhealthy);
        check(&[Serving, Failed, Failed, Failed, Serving, Failed, Serving], State::Unhealthy);
        check(&[Serving, Failed, Failed, Failed, Serving, Serving], State::Healthy);
    }

    #[test]
    fn a_refused_call_makes_suspect_at_once() {
        check(&[Serving, Refused], State::Suspect);
        check(&[Serving, Refused, Serving], State::Healthy);
        check(&[Serving, Refused, Failed, Failed], State::Unhealthy);
        check(&[Refused], State::Unhealthy);
    }

    #[test]
    fn an_endpoint_that_drains_gets_nothing_until_it_serves_again() {
        check(&[Serving, NotServing], State::Draining);
        check(&[Serving, NotServing, Serving], State::Draining);
        check(&[Serving, NotServing, Serving, Serving], State::Healthy);
        check(&[NotServing, Serving], State::Healthy);
    }
}
