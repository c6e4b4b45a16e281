//! Reading the log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::stream::Info;
use async_nats::{Message, StatusCode, Subscriber, jetstream};
use futures::{FutureExt, StreamExt};
use tokio::time::timeout;

use super::Link;
use crate::feed::{BACK, BATCH, BEAT, Batch, Failure, Follower, in_time};

/// The server forgets a consumer that nobody listens to for so long.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// Heartbeats that may be late: over the longest way a packet that is lost twice holds up three of them.
const BEATS: u32 = 4;

const BACK_NANOS: i128 = BACK.as_nanos() as i128;

/// How far the log has been read.
pub(super) struct Place {
    link: Link,
    reading: Option<Reading>,
    /// Where to begin, in Unix nanoseconds, while nothing has been read.
    begin: i128,
    /// The last record's sequence number.
    seen: Option<u64>,
    /// Which log it was read from: when that was made, and by which run of which server where there is only one.
    log: Option<(i128, Option<String>)>,
    /// A hole was seen in the sequence.
    is_torn: bool,
}

struct Reading {
    messages: Subscriber,
    context: Context,
    /// The connection that it began over. Over another one may be a log that has lost something.
    connection: u64,
}

/// What a message of a consumer is.
enum Item {
    Beat,
    Record { sequence: u64, is_last: bool, payload: Vec<u8> },
}

impl Place {
    pub(super) fn new(link: Link) -> Self {
        let begin = unix_nanos().saturating_sub(BACK_NANOS);
        Self { link, reading: None, begin, seen: None, log: None, is_torn: false }
    }

    /// Does this log have all that was appended since this place was reached?
    fn goes_on(&mut self, info: &Info, server: String) -> bool {
        // Of several replicas one may go and nothing is lost; what one alone had not written down may be.
        let run = (info.config.num_replicas <= 1).then_some(server);
        let log = Some((info.created.unix_timestamp_nanos(), run));
        let known = self.log.is_none() || self.log == log;
        self.log = log;
        let state = &info.state;
        let whole = self.seen.is_none_or(|seen| state.first_sequence <= seen + 1 && seen <= state.last_sequence);
        known && whole && !self.is_torn
    }

    fn take(&mut self, item: Item, batch: &mut Batch) -> Result<(), Failure> {
        match item {
            Item::Beat => batch.is_last = true,
            Item::Record { sequence, is_last, payload } => {
                self.is_torn |= self.seen.is_some_and(|seen| sequence != seen + 1);
                if self.is_torn {
                    return Err(Failure::Late);
                }
                self.seen = Some(sequence);
                batch.records.push(payload);
                batch.is_last = is_last;
            }
        }
        Ok(())
    }
}

fn item(context: &Context, message: Message) -> Result<Item, Failure> {
    match message.status {
        Some(StatusCode::IDLE_HEARTBEAT) => return Ok(Item::Beat),
        Some(_) => return Err(Failure::Late),
        None => {}
    }
    let message = jetstream::Message { message, context: context.clone() };
    let info = message.info().map_err(Failure::Failed)?;
    Ok(Item::Record { sequence: info.stream_sequence, is_last: info.pending == 0, payload: message.payload.to_vec() })
}

#[async_trait::async_trait]
impl Follower for Place {
    async fn resume(&mut self) -> Result<bool, Failure> {
        self.reading = None;
        let client = self.link.client().await?;
        let connection = self.link.connections();
        let log = in_time(self.link.log()).await?;
        let goes_on = self.goes_on(log.cached_info(), client.server_info().server_id);
        if !goes_on {
            // Until that has been said. What comes next is in this log, which may be another.
            self.is_torn = true;
            self.seen = None;
            self.begin = unix_nanos().saturating_sub(BACK_NANOS);
        }
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.map_err(Failure::of)?;
        let deliver_policy = match self.seen {
            Some(seen) => DeliverPolicy::ByStartSequence { start_sequence: seen + 1 },
            None => DeliverPolicy::ByStartTime {
                start_time: async_nats::datetime::from_nanos(self.begin).map_err(Failure::Failed)?,
            },
        };
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy,
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            idle_heartbeat: BEAT,
            inactive_threshold: FORGOTTEN,
            memory_storage: true,
            num_replicas: 1,
            ..push::Config::default()
        };
        in_time(async { log.create_consumer(config).await.map_err(Failure::of) }).await?;
        let context = self.link.context().await?;
        self.reading = Some(Reading { messages, context, connection });
        self.is_torn = false;
        Ok(goes_on)
    }

    async fn read(&mut self) -> Result<Batch, Failure> {
        let reading = self.reading.as_mut().ok_or(Failure::Late)?;
        let mut messages = Vec::new();
        match timeout(BEATS * BEAT, reading.messages.next()).await {
            Ok(message) => messages.extend(message),
            Err(_elapsed) => {}
        }
        // And what is here already.
        while !messages.is_empty() && messages.len() < BATCH {
            match reading.messages.next().now_or_never() {
                Some(Some(message)) => messages.push(message),
                Some(None) | None => break,
            }
        }
        if messages.is_empty() {
            // The connection may be dead and not know it.
            let _ = self.link.client().await?.force_reconnect().await;
            return Err(Failure::Late);
        }
        if self.link.connections() != reading.connection {
            return Err(Failure::Late);
        }
        let items =
            messages.into_iter().map(|message| item(&reading.context, message)).collect::<Result<Vec<_>, _>>()?;
        let mut batch = Batch::default();
        items.into_iter().try_for_each(|item| self.take(item, &mut batch))?;
        Ok(batch)
    }
}

fn unix_nanos() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(now.as_nanos()).unwrap_or_default()
}
