//! What this gateway has to tell the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::record::Record;
use super::{BATCH, Failure, Feed, Name, Told};
use crate::invalidation::Purge;
use crate::{Metrics, Stamp};

/// Purges due at once; past that everything is purged instead, which is one.
const MAX_DUE: usize = 10_000;
/// Questions due at once; past that they are not asked, and nobody confirms.
const MAX_QUESTIONS: usize = 1_000;
/// Between two sendings: a stream of writes to one collection is one purge now and then.
const PAUSE: Duration = Duration::from_millis(100);
/// After a failure.
const RETRY: Duration = Duration::from_millis(250);

pub(crate) struct Outbox {
    pub(super) feed: Arc<dyn Feed>,
    name: String,
    origin: u64,
    confirm_timeout: Duration,
    due: Mutex<Due>,
    added: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Due {
    purges: HashMap<Purge, Stamp>,
    questions: Vec<u64>,
}

impl Outbox {
    pub(super) fn new(
        feed: Arc<dyn Feed>,
        name: String,
        origin: u64,
        confirm_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { feed, name, origin, confirm_timeout, due: Mutex::default(), added: Notify::new(), metrics }
    }

    pub(crate) fn tell(&self, purge: Purge, stamp: Stamp) {
        self.due.lock().add(purge, stamp);
        self.added.notify_one();
    }

    /// Waits until the other gateways that are there have applied what was told before, within a bounded time.
    ///
    /// # Errors
    /// When the feed does not say who is there.
    pub(crate) async fn confirmed(&self, deadline: Option<Instant>) -> Result<Vec<Told>, Failure> {
        let patience = Instant::now() + self.confirm_timeout;
        let deadline = deadline.map_or(patience, |at| at.min(patience));
        let number = rand::random();
        let begun = async { tokio::try_join!(self.feed.present(), self.feed.confirmations(number)) };
        let (present, mut confirmations) = timeout_at(deadline, begun).await.unwrap_or(Err(Failure::Late))?;
        let others: HashSet<String> = present.into_iter().filter(|name| *name != self.name).collect();
        let mut missing = others.clone();
        if !missing.is_empty() {
            self.due.lock().ask(number);
            self.added.notify_one();
        }
        while !missing.is_empty() {
            match timeout_at(deadline, confirmations.next()).await {
                Ok(Ok(names)) => names.iter().for_each(|name| {
                    missing.remove(name);
                }),
                // Who has confirmed until now has.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        let told = others
            .iter()
            .filter_map(|other| Name::parse(other).map(|name| Told { name, confirmed: !missing.contains(other) }));
        let mut told: Vec<Told> = told.collect();
        told.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(told)
    }

    /// Sends what is due, for ever.
    pub(super) async fn send(self: Arc<Self>) {
        loop {
            self.added.notified().await;
            loop {
                let batch = self.due.lock().take(self.origin);
                if batch.is_empty() {
                    break;
                }
                let records: Vec<Vec<u8>> = batch.iter().map(|record| record.encode()).collect();
                if let Err(error) = self.feed.append(&records).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "purges wait for the feed");
                    Metrics::count(&self.metrics.feed_failures);
                    self.due.lock().put_back(batch);
                    tokio::time::sleep(RETRY).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Due {
    fn add(&mut self, purge: Purge, stamp: Stamp) {
        if self.purges.len() >= MAX_DUE && !self.purges.contains_key(&purge) {
            self.purges.clear();
            self.purges.insert(Purge::EVERYTHING, stamp);
        } else {
            self.purges.insert(purge, stamp);
        }
    }

    fn ask(&mut self, number: u64) {
        if self.questions.len() < MAX_QUESTIONS {
            self.questions.push(number);
        }
    }

    /// Questions go behind all purges, so that who answers has read these.
    fn take(&mut self, origin: u64) -> Vec<Record> {
        let some: Vec<Purge> = self.purges.keys().copied().take(BATCH).collect();
        let purges = some.into_iter().filter_map(|purge| self.purges.remove_entry(&purge));
        let mut records: Vec<Record> = purges.map(|(purge, stamp)| Record::Purge(purge, stamp)).collect();
        if self.purges.is_empty() {
            records.extend(self.questions.drain(..).map(|number| Record::Question { number, origin }));
        }
        records
    }

    fn put_back(&mut self, batch: Vec<Record>) {
        for record in batch {
            match record {
                // One that came since says the same of a later time.
                Record::Purge(purge, stamp) => {
                    self.purges.entry(purge).or_insert(stamp);
                }
                Record::Question { number, .. } => self.ask(number),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tag;

    #[test]
    fn too_many_purges_are_one() {
        let (mut due, stamp) = (Due::default(), Stamp { micros: 1, origin: 2 });
        for i in 0..=MAX_DUE {
            due.add(Purge::tag(Tag::collection(None, &i.to_string())), stamp);
        }
        assert_eq!(due.take(2), [Record::Purge(Purge::EVERYTHING, stamp)]);
    }

    #[test]
    fn a_question_comes_behind_all_purges() {
        let (mut due, stamp) = (Due::default(), Stamp { micros: 1, origin: 2 });
        due.ask(7);
        for i in 0..=BATCH {
            due.add(Purge::tag(Tag::collection(None, &i.to_string())), stamp);
        }
        let first = due.take(2);
        assert_eq!(first.len(), BATCH);
        assert!(first.iter().all(|record| matches!(record, Record::Purge(..))));
        due.put_back(first);
        due.take(2);
        assert!(matches!(due.take(2)[..], [Record::Purge(..), Record::Question { number: 7, origin: 2 }]));
    }
}
