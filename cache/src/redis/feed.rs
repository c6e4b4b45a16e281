//! The purge feed over Redis: a stream for the log, a sorted set of who is there, a set for what is confirmed.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamRangeReply, StreamReadReply};
use redis::{AsyncConnectionConfig, Client, InfoDict, Pipeline, RedisError};
use tokio::sync::Mutex;

use super::BadUrl;
use crate::feed::{BACK, BATCH, BEAT, Batch, Confirmations, Failure, Feed, Follower, KEPT, PRESENCE, TIMEOUT, in_time};

const STREAM: &str = "nearfield:2:purges";
const FIELD: &str = "p";
const PRESENT: &str = "nearfield:2:purges:gateways";
const ATTEND: &str = include_str!("attend.lua");
/// How long confirmations are kept for whoever asked.
const CONFIRMATIONS: Duration = Duration::from_secs(60);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct RedisFeed {
    client: Client,
    /// For everything but reading, which blocks.
    connection: Arc<Mutex<Option<MultiplexedConnection>>>,
}

impl RedisFeed {
    pub(crate) fn open(url: &str) -> Result<Self, BadUrl> {
        let client = Client::open(url).map_err(BadUrl)?;
        Ok(Self { client, connection: Arc::default() })
    }
}

/// One exchange over a connection that is made when it is needed, and made anew after a failure.
async fn exchange<T: redis::FromRedisValue>(
    client: &Client,
    connection: &Mutex<Option<MultiplexedConnection>>,
    pipeline: &Pipeline,
) -> Result<T, Failure> {
    let asked = async {
        let known = connection.lock().await.clone();
        let mut link = match known {
            Some(known) => known,
            None => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(TIMEOUT))
                    .set_response_timeout(Some(TIMEOUT));
                let made = client.get_multiplexed_async_connection_with_config(&config).await.map_err(Failure::of)?;
                connection.lock().await.insert(made).clone()
            }
        };
        pipeline.query_async(&mut link).await.map_err(Failure::of)
    };
    let answered = in_time(asked).await;
    if answered.is_err() {
        *connection.lock().await = None;
    }
    answered
}

#[async_trait::async_trait]
impl Feed for RedisFeed {
    async fn append(&self, records: &[Vec<u8>]) -> Result<(), Failure> {
        let mut pipeline = Pipeline::with_capacity(records.len());
        for record in records {
            let add = pipeline.cmd("XADD").arg(STREAM).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
            add.arg(FIELD).arg(&record[..]).ignore();
        }
        exchange(&self.client, &self.connection, &pipeline).await
    }

    fn follow(&self) -> Box<dyn Follower> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Box::new(Place {
            client: self.client.clone(),
            connection: None,
            seen: format!("{}-0", now.saturating_sub(BACK).as_millis()),
            is_read: false,
            run: None,
        })
    }

    async fn attend(&self, name: &str) -> Result<(), Failure> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("EVAL").arg(ATTEND).arg(1).arg(PRESENT).arg(name).arg(PRESENCE.as_millis() as u64).ignore();
        exchange(&self.client, &self.connection, &pipeline).await
    }

    async fn present(&self) -> Result<Vec<String>, Failure> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("ZRANGE").arg(PRESENT).arg(0).arg(-1);
        let (names,) = exchange(&self.client, &self.connection, &pipeline).await?;
        Ok(names)
    }

    async fn confirm(&self, question: u64, name: &str) -> Result<(), Failure> {
        let key = key(question);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SADD").arg(&key).arg(name).ignore();
        pipeline.cmd("EXPIRE").arg(&key).arg(CONFIRMATIONS.as_secs()).ignore();
        exchange(&self.client, &self.connection, &pipeline).await
    }

    async fn confirmations(&self, question: u64) -> Result<Box<dyn Confirmations>, Failure> {
        let (client, connection) = (self.client.clone(), Arc::clone(&self.connection));
        Ok(Box::new(Confirmed { client, connection, key: key(question) }))
    }
}

fn key(question: u64) -> String {
    format!("{STREAM}:confirmed:{question:016x}")
}

struct Confirmed {
    client: Client,
    connection: Arc<Mutex<Option<MultiplexedConnection>>>,
    key: String,
}

#[async_trait::async_trait]
impl Confirmations for Confirmed {
    async fn next(&mut self) -> Result<Vec<String>, Failure> {
        tokio::time::sleep(LOOK).await;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SMEMBERS").arg(&self.key);
        let (names,) = exchange(&self.client, &self.connection, &pipeline).await?;
        Ok(names)
    }
}

/// How far the stream has been read.
struct Place {
    client: Client,
    connection: Option<MultiplexedConnection>,
    /// The last item's id, or a time to begin at.
    seen: String,
    /// Whether `seen` was an item.
    is_read: bool,
    /// Which run of Redis it was read from.
    run: Option<String>,
}

impl Place {
    /// Does this Redis have all that was appended since this place was reached?
    async fn goes_on(&mut self, connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("INFO").arg("server");
        pipeline.cmd("XRANGE").arg(STREAM).arg(&self.seen).arg(&self.seen);
        let (server, found): (InfoDict, StreamRangeReply) = pipeline.query_async(connection).await?;
        let run: Option<String> = server.get("run_id");
        let known = self.run.is_none() || self.run == run;
        self.run = run;
        Ok(known && (!self.is_read || !found.ids.is_empty()))
    }
}

#[async_trait::async_trait]
impl Follower for Place {
    async fn resume(&mut self) -> Result<bool, Failure> {
        // A connection of its own: a blocked reading would hold up what shares it.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(BEAT + TIMEOUT));
        let resuming = async {
            let made = self.client.get_multiplexed_async_connection_with_config(&config).await;
            let mut connection = made.map_err(Failure::of)?;
            let goes_on = self.goes_on(&mut connection).await.map_err(Failure::of)?;
            self.connection = Some(connection);
            Ok(goes_on)
        };
        in_time(resuming).await
    }

    async fn read(&mut self) -> Result<Batch, Failure> {
        let connection = self.connection.as_mut().ok_or(Failure::Late)?;
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(BEAT.as_millis() as u64);
        command.arg("STREAMS").arg(STREAM).arg(&self.seen);
        let reply: Option<StreamReadReply> = command.query_async(connection).await.map_err(Failure::of)?;
        let items = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids);
        let mut batch = Batch::default();
        for item in items {
            batch.records.push(item.get::<Vec<u8>>(FIELD).unwrap_or_default());
            (self.seen, self.is_read) = (item.id, true);
        }
        batch.is_last = batch.records.len() < BATCH;
        Ok(batch)
    }
}
