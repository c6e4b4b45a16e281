//! The messages of one streamed search, block by block: a block is looked up when the one before has been taken, by a
//! job of its own on the search pool. So the first hits leave before the last are known, and for a client that does not
//! read nothing is looked up, no lock is held and no thread waits.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nearfield_proto::v1;
use tonic::Status;

use super::answers::{LookedUp, point};
use super::caller::Caller;
use super::vector_search::{Outgoing, result};
use super::{Service, status};
use crate::search::hits::{Hits, find};
use crate::search::pool;
use crate::search::{self, Answer, Found};
use crate::store::Store;

/// Hits that are looked up, and made ready to be sent, at once.
pub(super) const BLOCK_HITS: usize = 128;
/// A block that finds the pool's queue full tries again after so long, and so often: its search was admitted.
const FULL_PAUSE: Duration = Duration::from_millis(20);
const FULL_TRIES: usize = 500;

pub(super) struct Blocks {
    service: Service,
    caller: Caller,
    name: Box<str>,
    source: Source,
    /// The place of the next block, and hits given so far.
    next: usize,
    given: u64,
    is_done: bool,
}

enum Source {
    Answer(Arc<Answer>),
    /// With the first block, until it is given.
    Hits(Arc<Hits>, Option<Vec<Found>>),
}

impl Service {
    /// Finds the hits, and looks up the first of them. An answer of one block is a unary one, and kept like that.
    pub(super) async fn blocks(&self, message: v1::SearchRequest, caller: &Caller) -> Result<Blocks, Status> {
        let query = self.checked(message, caller).await?;
        let name = query.address.name.clone();
        let source = match self.look_up(query)? {
            LookedUp::Answer(answer) => Source::Answer(answer),
            LookedUp::Asked(asked) if asked.query.k <= BLOCK_HITS => Source::Answer(self.run_one(asked, caller).await?),
            LookedUp::Asked(asked) => {
                let (store, query, point) = (self.0.store.clone(), asked.query.clone(), point(&asked.query).to_owned());
                let finding = self.0.pool.run(caller.deadline, move |stop| {
                    let hits = find(&store, query, stop)?;
                    let first = look_up(&store, &hits, 0..BLOCK_HITS.min(hits.len()))?;
                    Ok((Arc::new(hits), first))
                });
                let found = finding.await.map_err(status::pool)?;
                let (hits, first) = found.map_err(|error| self.failed(error, &name, &point))?;
                Source::Hits(hits, Some(first))
            }
        };
        let (service, caller) = (self.clone(), caller.clone());
        Ok(Blocks { service, caller, name, source, next: 0, given: 0, is_done: false })
    }
}

impl Blocks {
    /// The next messages; none after those of which the last one says that it is.
    pub(super) async fn next(&mut self) -> Option<Result<Vec<v1::SearchResult>, Status>> {
        if self.is_done {
            return None;
        }
        let total = match &self.source {
            Source::Answer(answer) => answer.hits.len(),
            Source::Hits(hits, _) => hits.len(),
        };
        let places = self.next..total.min(self.next + BLOCK_HITS);
        self.next = places.end;
        self.is_done = places.end == total;
        let messages = match &mut self.source {
            Source::Answer(answer) => Ok(answer.hits[places].iter().map(result).collect()),
            Source::Hits(_, first) if places.start == 0 => {
                Ok(first.take().unwrap_or_default().iter().map(result).collect())
            }
            Source::Hits(hits, _) => {
                let hits = hits.clone();
                self.look_up(hits, places).await
            }
        };
        let mut messages: Vec<v1::SearchResult> = match messages {
            Ok(messages) => messages,
            Err(error) => {
                self.is_done = true;
                return Some(Err(error));
            }
        };
        self.given += messages.len() as u64;
        if self.is_done {
            if messages.is_empty() {
                messages.push(v1::SearchResult::default());
            }
            if let Some(last) = messages.last_mut() {
                (last.last, last.total_results) = (true, self.given);
            }
        }
        Some(Ok(messages))
    }

    async fn look_up(&self, hits: Arc<Hits>, places: Range<usize>) -> Result<Vec<v1::SearchResult>, Status> {
        let parts = &self.service.0;
        for _ in 0..FULL_TRIES {
            let (store, hits, places) = (parts.store.clone(), hits.clone(), places.clone());
            let looking = parts.pool.run(self.caller.deadline, move |stop| {
                stop.check()?;
                look_up(&store, &hits, places)
            });
            match looking.await {
                Ok(found) => {
                    let found = found.map_err(|error| self.service.failed(error, &self.name, ""))?;
                    return Ok(found.iter().map(result).collect());
                }
                Err(pool::Error::Full) => tokio::time::sleep(FULL_PAUSE).await,
                Err(error) => return Err(status::pool(error)),
            }
        }
        Err(status::pool(pool::Error::Full))
    }

    /// One message after the other; a block is looked up when the first of its messages is asked for.
    pub(super) fn into_stream(self, until_sent: impl Send + 'static) -> Outgoing<v1::SearchResult> {
        Box::pin(futures::stream::unfold((self, Vec::new().into_iter(), until_sent), message))
    }
}

fn look_up(store: &Store, hits: &Hits, places: Range<usize>) -> Result<Vec<Found>, search::Error> {
    let found = hits.look_up(store, places)?;
    store.streamed.fetch_add(found.len() as u64, Ordering::Relaxed);
    Ok(found)
}

/// What a stream goes on from: the blocks to come, the messages at hand, and what it holds until it ends.
type Place<T> = (Blocks, std::vec::IntoIter<v1::SearchResult>, T);

async fn message<T>(
    (mut blocks, mut ready, until_sent): Place<T>,
) -> Option<(Result<v1::SearchResult, Status>, Place<T>)> {
    loop {
        if let Some(message) = ready.next() {
            return Some((Ok(message), (blocks, ready, until_sent)));
        }
        match blocks.next().await? {
            Ok(messages) => ready = messages.into_iter(),
            Err(error) => return Some((Err(error), (blocks, ready, until_sent))),
        }
    }
}
