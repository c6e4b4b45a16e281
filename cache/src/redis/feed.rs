//! Purges between gateways: a Redis stream that every gateway writes its purges to, and reads the others' from.
//!
//! A stream and not publish/subscribe, so that a gateway that was cut off reads what it missed. A purge that could not
//! be written stays due until it can. A gateway that cannot be sure to have read everything, because Redis has restarted
//! or no longer holds what was read last, forgets all that it has rather than give what was purged.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamRangeReply, StreamReadReply};
use redis::{AsyncConnectionConfig, Client, InfoDict, Pipeline};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::TIMEOUT;
use super::pool::Pool;
use crate::invalidation::{Purge, Reach};
use crate::{Invalidation, Stamp, Tag};

const STREAM: &str = "nearfield:1:purges";
const FIELD: &str = "p";
/// Purges that the stream keeps, about.
const KEPT: usize = 100_000;
/// How far back a gateway reads when it starts: longer than any answer lives.
const BACK: Duration = Duration::from_secs(15 * 60);
/// Purges due at once; past that everything is purged instead, which is one.
const MAX_DUE: usize = 10_000;
/// Purges sent or read in one exchange.
const BATCH: usize = 1_000;
/// Between two sendings: a stream of writes to one collection is one purge now and then.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a reading waits for something to read.
const BLOCK: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Due {
    purges: Mutex<HashMap<Purge, Stamp>>,
    added: Notify,
}

pub(super) fn start(tasks: &mut JoinSet<()>, client: Client, pool: Arc<Pool>, invalidation: &Invalidation) {
    let due = Arc::new(Due::default());
    let relayed = Arc::clone(&due);
    invalidation.relay_by(move |purge, stamp| relayed.add(purge, stamp));
    tasks.spawn(send(due, pool));
    tasks.spawn(receive(client, invalidation.clone()));
}

impl Due {
    fn add(&self, purge: Purge, stamp: Stamp) {
        let mut purges = self.purges.lock();
        if purges.len() >= MAX_DUE && !purges.contains_key(&purge) {
            purges.clear();
            purges.insert(Purge::EVERYTHING, stamp);
        } else {
            purges.insert(purge, stamp);
        }
        drop(purges);
        self.added.notify_one();
    }

    fn take(&self) -> Vec<(Purge, Stamp)> {
        let mut purges = self.purges.lock();
        let some: Vec<Purge> = purges.keys().copied().take(BATCH).collect();
        some.into_iter().filter_map(|purge| purges.remove_entry(&purge)).collect()
    }

    fn put_back(&self, batch: Vec<(Purge, Stamp)>) {
        let mut purges = self.purges.lock();
        for (purge, stamp) in batch {
            // One that came since says the same of a later time.
            purges.entry(purge).or_insert(stamp);
        }
    }
}

async fn send(due: Arc<Due>, pool: Arc<Pool>) {
    loop {
        due.added.notified().await;
        loop {
            let batch = due.take();
            if batch.is_empty() {
                break;
            }
            if let Err(batch) = write(&pool, batch).await {
                due.put_back(batch);
                tokio::time::sleep(RETRY).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn write(pool: &Arc<Pool>, batch: Vec<(Purge, Stamp)>) -> Result<(), Vec<(Purge, Stamp)>> {
    let Some(mut lease) = pool.lease() else { return Err(batch) };
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for (purge, stamp) in &batch {
        let bytes = encode(*purge, *stamp);
        pipeline.cmd("XADD").arg(STREAM).arg("MAXLEN").arg("~").arg(KEPT).arg("*").arg(FIELD).arg(&bytes[..]).ignore();
    }
    match timeout(TIMEOUT, pipeline.exec_async(&mut lease.connection)).await {
        Ok(Ok(())) => Ok(()),
        _ => {
            lease.broken();
            Err(batch)
        }
    }
}

/// Follows the stream from [`BACK`] ago on, over as many connections as it takes.
async fn receive(client: Client, invalidation: Invalidation) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut position = Position { seen: format!("{}-0", now.saturating_sub(BACK).as_millis()), read: false, run: None };
    loop {
        if let Err(error) = follow(&client, &invalidation, &mut position).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "purges of other gateways are not read");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// How far the stream has been read.
struct Position {
    /// The last item's id, or a time to begin at.
    seen: String,
    /// Whether `seen` was an item.
    read: bool,
    /// Which run of Redis it was read from.
    run: Option<String>,
}

impl Position {
    /// Does this Redis have all that has been added since this position was reached?
    async fn goes_on(&mut self, connection: &mut MultiplexedConnection) -> Result<bool, redis::RedisError> {
        let server: InfoDict = redis::cmd("INFO").arg("server").query_async(connection).await?;
        let run: Option<String> = server.get("run_id");
        let known = self.run.is_none() || self.run == run;
        self.run = run;
        if !self.read || !known {
            return Ok(known);
        }
        let mut command = redis::cmd("XRANGE");
        command.arg(STREAM).arg(&self.seen).arg(&self.seen);
        let found: StreamRangeReply = command.query_async(connection).await?;
        Ok(!found.ids.is_empty())
    }
}

async fn follow(
    client: &Client,
    invalidation: &Invalidation,
    position: &mut Position,
) -> Result<(), redis::RedisError> {
    // A connection of its own: a blocked reading would hold up what shares it.
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(TIMEOUT)).set_response_timeout(Some(BLOCK + TIMEOUT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    if !position.goes_on(&mut connection).await? {
        tracing::warn!("purges of other gateways may have been missed, so all answers are forgotten");
        invalidation.forget();
    }
    loop {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        command.arg("STREAMS").arg(STREAM).arg(&position.seen);
        let reply: Option<StreamReadReply> = command.query_async(&mut connection).await?;
        for item in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids) {
            if let Some((purge, stamp)) = item.get::<Vec<u8>>(FIELD).and_then(|bytes| decode(&bytes)) {
                invalidation.learn(purge, stamp);
            }
            (position.seen, position.read) = (item.id, true);
        }
    }
}

const ENCODED: usize = 25;

fn encode(purge: Purge, stamp: Stamp) -> [u8; ENCODED] {
    let (kind, tag) = match purge.reach {
        Reach::Everything => (0, 0),
        Reach::Tag(tag) => (1, tag.0),
    };
    let mut bytes = [0; ENCODED];
    bytes[0] = kind | u8::from(purge.soft) << 1;
    bytes[1..9].copy_from_slice(&tag.to_le_bytes());
    bytes[9..17].copy_from_slice(&stamp.micros.to_le_bytes());
    bytes[17..].copy_from_slice(&stamp.origin.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Purge, Stamp)> {
    let bytes: &[u8; ENCODED] = bytes.try_into().ok()?;
    let number = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
    let reach = match bytes[0] {
        0 | 2 => Reach::Everything,
        1 | 3 => Reach::Tag(Tag(number(1)?)),
        _ => return None,
    };
    let purge = Purge { reach, soft: bytes[0] & 2 != 0 };
    Some((purge, Stamp { micros: number(9)?, origin: number(17)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    #[tokio::test]
    async fn purges_travel_as_bytes() {
        let stamp = Invalidation::new(Clock::start()).begin();
        for purge in [Purge::EVERYTHING, Purge::tag(Tag::collection(None, "shoes"))] {
            for purge in [purge, purge.softly(true)] {
                assert_eq!(decode(&encode(purge, stamp)), Some((purge, stamp)));
            }
        }
        assert_eq!(decode(b"x"), None);
        assert_eq!(decode(&[7; ENCODED]), None);
    }

    #[tokio::test]
    async fn too_many_purges_are_one() {
        let (due, stamp) = (Due::default(), Invalidation::new(Clock::start()).begin());
        for i in 0..=MAX_DUE {
            due.add(Purge::tag(Tag::collection(None, &i.to_string())), stamp);
        }
        assert_eq!(due.take(), [(Purge::EVERYTHING, stamp)]);
    }
}
