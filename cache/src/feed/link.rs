//! The tasks that join a gateway to a feed: one sends, one reads, one says that the gateway is there, one watches.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::record::Record;
use super::{BadUrl, Config, Failure, Feed, Follower, Name, Outbox, PRESENCE};
use crate::nats::Nats;
use crate::redis::feed::RedisFeed;
use crate::{Invalidation, Metrics, Purge};

/// Between two attempts to read.
const RETRY: Duration = Duration::from_millis(250);
/// Questions of others that wait to be answered; past that they are not.
const MAX_QUESTIONS: usize = 100;
/// How often it is looked whether the feed is silent.
const LOOK: Duration = Duration::from_millis(250);

/// Dropped, it stops its tasks.
pub struct Link {
    _tasks: JoinSet<()>,
}

impl Link {
    /// Joins `invalidation` to the feed of `config`, or to that at `redis_url` where it names none; None without either.
    /// Begins to connect and returns: the feed may come later. Needs a runtime, on which the tasks run.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn start(
        config: &Config,
        redis_url: Option<&str>,
        name: &Name,
        invalidation: &Invalidation,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, BadUrl> {
        let Some(url) = config.url.as_deref().or(redis_url) else { return Ok(None) };
        let feed: Arc<dyn Feed> = match url.split_once("://") {
            Some(("redis", _)) => Arc::new(RedisFeed::open(url)?),
            Some(("nats" | "tls", _)) => Arc::new(Nats::open(url, &config.nats).map_err(BadUrl::Nats)?),
            _ => return Err(BadUrl::Scheme),
        };
        Ok(Some(Self::over(feed, config, name, invalidation, metrics)))
    }

    fn over(
        feed: Arc<dyn Feed>,
        config: &Config,
        name: &Name,
        invalidation: &Invalidation,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (name, origin) = (name.to_string(), invalidation.origin());
        let outbox = Outbox::new(Arc::clone(&feed), name.clone(), origin, config.confirm_timeout, Arc::clone(metrics));
        let outbox = Arc::new(outbox);
        invalidation.begin_relay(Arc::clone(&outbox));
        let heard = Heard::default();
        let (questions, asked) = mpsc::channel(MAX_QUESTIONS);
        let reader = Reader {
            heard: heard.clone(),
            invalidation: invalidation.clone(),
            metrics: Arc::clone(metrics),
            questions,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(outbox.send());
        tasks.spawn(reader.run(feed.follow()));
        tasks.spawn(attend(Arc::clone(&feed), name.clone()));
        tasks.spawn(answer(feed, asked, name));
        tasks.spawn(watch(heard, config.max_silence, invalidation.clone(), Arc::clone(metrics)));
        Self { _tasks: tasks }
    }
}

/// When the feed was last known to be well.
#[derive(Clone)]
struct Heard(Arc<Mutex<Instant>>);

impl Default for Heard {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Heard {
    fn now(&self) {
        *self.0.lock() = Instant::now();
    }

    fn ago(&self) -> Duration {
        self.0.lock().elapsed()
    }
}

struct Reader {
    heard: Heard,
    invalidation: Invalidation,
    metrics: Arc<Metrics>,
    questions: mpsc::Sender<u64>,
}

impl Reader {
    /// Follows the log, over as many connections as it takes.
    async fn run(self, mut follower: Box<dyn Follower>) {
        loop {
            let Err(error) = self.follow(&mut *follower).await;
            Metrics::count(&self.metrics.feed_failures);
            tracing::debug!(error = &error as &dyn std::error::Error, "purges of other gateways are not read");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&self, follower: &mut dyn Follower) -> Result<std::convert::Infallible, Failure> {
        if !follower.resume().await? {
            tracing::warn!("purges of other gateways may have been missed, so all answers are forgotten");
            Metrics::count(&self.metrics.feed_gaps);
            self.invalidation.forget();
        }
        loop {
            let batch = follower.read().await?;
            batch.records.iter().for_each(|record| self.take(record));
            self.heard.now();
            if batch.is_last {
                self.invalidation.caught_up();
            }
        }
    }

    fn take(&self, record: &[u8]) {
        match Record::decode(record) {
            Some(Record::Purge(purge, stamp)) => {
                if self.invalidation.learn(purge, stamp) {
                    Metrics::count(&self.metrics.purges_learnt);
                }
            }
            Some(Record::Question { number, origin }) => {
                if origin != self.invalidation.origin() {
                    // Unanswered, whoever asks sees that this gateway has not confirmed.
                    let _ = self.questions.try_send(number);
                }
            }
            // What a newer gateway says may be anything.
            None => self.invalidation.note_all(Purge::EVERYTHING),
        }
    }
}

async fn attend(feed: Arc<dyn Feed>, name: String) {
    let mut ticks = interval(PRESENCE / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = feed.attend(&name).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the feed does not know that we are here");
        }
    }
}

async fn answer(feed: Arc<dyn Feed>, mut asked: mpsc::Receiver<u64>, name: String) {
    while let Some(question) = asked.recv().await {
        if let Err(error) = feed.confirm(question, &name).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a purge is not confirmed");
        }
    }
}

/// Nobody knows what was purged while nothing is heard: what is older than that is asked for anew, and stands in only
/// where asking fails.
async fn watch(heard: Heard, max_silence: Duration, invalidation: Invalidation, metrics: Arc<Metrics>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = false;
    loop {
        ticks.tick().await;
        let was_silent = std::mem::replace(&mut silent, heard.ago() > max_silence);
        if silent {
            invalidation.doubt(max_silence);
        }
        match (was_silent, silent) {
            (false, true) => {
                Metrics::count(&metrics.feed_silences);
                tracing::warn!(
                    ?max_silence,
                    "purges of other gateways are not heard, so answers from before are stale"
                );
            }
            (true, false) => tracing::info!("purges of other gateways are heard again"),
            _ => {}
        }
    }
}
