//! How long a connection may stay as it is: slow with a head, idle, slow to take its answers, or slow to leave.

use std::time::Duration;

use tokio::time::Instant;

use super::activity::Activity;

/// After a drain began, how long an HTTP/1.1 connection with nothing in flight stays open: a request may be on its way, and
/// closing now would lose it (RFC 9112, section 9.5). Its answer says that the connection closes.
const LAST_REQUEST_GRACE: Duration = Duration::from_millis(500);
/// Asked to finish and with nothing in flight, how long a connection may take: buffered answers still go out, and a
/// peer that is gone never says goodbye.
const GOODBYE: Duration = Duration::from_secs(10);
/// Between two looks at the earliest.
const MIN_LOOK: Duration = Duration::from_millis(10);

/// Where a connection stands between its handshake and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The process drains, and nothing is in flight that could tell the client.
    LastRequest {
        until: Instant,
    },
    /// It was asked to finish.
    Finishing {
        since: Instant,
    },
}

/// What to do with a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer 408 and read no more.
    ExpireHead,
    /// Ask it to finish: GOAWAY, or `Connection: close`.
    Finish,
    /// Drop it.
    HangUp,
    /// Drop it, since its client takes nothing.
    CutOff,
    Wait,
}

pub(super) struct Patience {
    phase: Phase,
    idle: Duration,
    send: Duration,
    head: Duration,
    /// Until something says so, HTTP/1.1's next head cannot be told from idleness.
    http1: bool,
    /// When the head that took too long was refused.
    expired: Option<Instant>,
}

impl Patience {
    pub(super) fn new(idle: Duration, send: Duration, head: Duration, http1: bool) -> Self {
        Self { phase: Phase::Open, idle, send, head, http1, expired: None }
    }

    /// The process drains.
    pub(super) fn drain(&mut self, activity: &Activity, now: Instant) -> Verdict {
        if self.http1 && !activity.is_busy() {
            self.phase = Phase::LastRequest { until: now + LAST_REQUEST_GRACE };
            return Verdict::Wait;
        }
        self.finish(now)
    }

    /// Time passed, or something happened on the connection.
    pub(super) fn look(&mut self, activity: &Activity, now: Instant) -> Verdict {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if passed(activity.head_due(self.head)) {
            let since = *self.expired.get_or_insert(now);
            return if since + GOODBYE <= now { Verdict::HangUp } else { Verdict::ExpireHead };
        }
        if passed(activity.stalled_at(self.send)) {
            return Verdict::CutOff;
        }
        match self.phase {
            Phase::Open if passed(activity.idle_at(self.idle)) => self.finish(now),
            Phase::LastRequest { until } if until <= now || activity.is_busy() => self.finish(now),
            Phase::Finishing { since } if passed(activity.idle_at(GOODBYE)) && since + GOODBYE <= now => {
                Verdict::HangUp
            }
            Phase::Open | Phase::LastRequest { .. } | Phase::Finishing { .. } => Verdict::Wait,
        }
    }

    /// When to look again if nothing happens: as rarely as possible, since idle connections should cost nothing.
    pub(super) fn next_look(&self, activity: &Activity, now: Instant) -> Instant {
        let phase = match self.phase {
            // A request may begin right after this look, and its answer stall: that is found in twice the time.
            Phase::Open => activity.idle_at(self.idle).unwrap_or(now + self.idle).min(now + self.send),
            Phase::LastRequest { until } => until,
            Phase::Finishing { since } => activity.idle_at(GOODBYE).map_or(now + GOODBYE, |at| at.max(since + GOODBYE)),
        };
        let head = match activity.head_due(self.head) {
            // A head may begin right after this look.
            None if self.http1 && !activity.is_busy() => Some(now + self.head),
            due => due,
        };
        let stalled = activity.stalled_at(self.send);
        phase.min(head.unwrap_or(phase)).min(stalled.unwrap_or(phase)).max(now + MIN_LOOK)
    }

    fn finish(&mut self, now: Instant) -> Verdict {
        self.phase = Phase::Finishing { since: now };
        Verdict::Finish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(90);
    const SEND: Duration = Duration::from_secs(30);
    const HEAD: Duration = Duration::from_secs(10);

    /// Lets time pass until something is to be done.
    async fn next(patience: &mut Patience, activity: &Activity) -> (Verdict, Duration) {
        let started = Instant::now();
        loop {
            match patience.look(activity, Instant::now()) {
                Verdict::Wait => tokio::time::sleep_until(patience.next_look(activity, Instant::now())).await,
                verdict => return (verdict, started.elapsed()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_finished_and_one_that_does_not_leave_is_dropped() {
        let activity = Activity::new();
        let mut patience = Patience::new(IDLE, SEND, HEAD, true);
        assert_eq!(next(&mut patience, &activity).await, (Verdict::Finish, IDLE));
        assert_eq!(next(&mut patience, &activity).await, (Verdict::HangUp, GOODBYE));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_expires_also_on_a_connection_that_was_idle_before() {
        let activity = Activity::new();
        let mut patience = Patience::new(IDLE, SEND, HEAD, true);
        tokio::time::advance(Duration::from_secs(35)).await;
        assert_eq!(patience.look(&activity, Instant::now()), Verdict::Wait);
        activity.bytes_in();
        assert_eq!(next(&mut patience, &activity).await, (Verdict::ExpireHead, HEAD));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_expires_beside_requests_over_http2_and_a_client_that_is_told_and_stays_is_dropped() {
        let activity = Activity::new();
        let mut patience = Patience::new(IDLE, SEND, HEAD, false);
        let _request = activity.begin();
        activity.block_begins();
        assert_eq!(next(&mut patience, &activity).await, (Verdict::ExpireHead, HEAD));
        tokio::time::advance(GOODBYE).await;
        assert_eq!(patience.look(&activity, Instant::now()), Verdict::HangUp);
        activity.block_ends();
        assert_eq!(patience.look(&activity, Instant::now()), Verdict::Wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_its_answers_is_dropped_and_one_that_waits_for_them_is_not() {
        let activity = Activity::new();
        let mut patience = Patience::new(IDLE, SEND, HEAD, true);
        let mut answer = activity.begin();
        answer.asked();
        tokio::time::advance(10 * SEND).await;
        assert_eq!(patience.look(&activity, Instant::now()), Verdict::Wait);
        answer.asked();
        answer.handed();
        assert_eq!(next(&mut patience, &activity).await, (Verdict::CutOff, SEND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_a_request_that_is_on_its_way_and_for_what_is_in_flight() {
        let activity = Activity::new();
        let mut patience = Patience::new(IDLE, SEND, HEAD, true);
        assert_eq!(patience.drain(&activity, Instant::now()), Verdict::Wait);
        let request = activity.begin();
        assert_eq!(patience.look(&activity, Instant::now()), Verdict::Finish);
        tokio::time::advance(10 * GOODBYE).await;
        assert_eq!(patience.look(&activity, Instant::now()), Verdict::Wait);
        drop(request);
        assert_eq!(next(&mut patience, &activity).await, (Verdict::HangUp, GOODBYE));

        let activity = Activity::new();
        let mut patience = Patience::new(IDLE, SEND, HEAD, true);
        assert_eq!(patience.drain(&activity, Instant::now()), Verdict::Wait);
        assert_eq!(next(&mut patience, &activity).await, (Verdict::Finish, LAST_REQUEST_GRACE));
    }
}
