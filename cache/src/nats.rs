//! The purge feed over NATS: a JetStream stream for the log, another for who is there, plain subjects for confirmations.
//!
//! A gateway reads with a consumer of its own that is pushed to and acknowledges nothing. The sequence numbers of a
//! stream have no holes, so a hole is what was missed; heartbeats tell silence from quiet.

mod follower;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::{self, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber};
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use tokio::sync::OnceCell;

use self::follower::Place;
use crate::feed::{BACK, Confirmations, Failure, Feed, Follower, KEPT, PRESENCE, TIMEOUT, in_time};

const STREAM: &str = "nearfield_purges";
const SUBJECT: &str = "nearfield.purges";
const PRESENT: &str = "nearfield_gateways";
const PRESENT_SUBJECTS: &str = "nearfield.gateways.";
const CONFIRMED_SUBJECTS: &str = "nearfield.confirmed.";
/// Between two pings. At the third that is not answered the client takes the connection for dead.
const PING: Duration = Duration::from_secs(2);
/// Between two attempts to connect, at most.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// `[cache.feed.nats]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A file with a JWT and its key, as `nsc` makes it. Absent: what the URL says, if anything.
    pub credentials: Option<PathBuf>,
    /// Servers of a cluster that keep the log.
    pub replicas: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { credentials: None, replicas: 1 }
    }
}

pub(crate) struct Nats {
    link: Link,
}

/// Clones are the same connection.
#[derive(Clone)]
struct Link {
    servers: Vec<ServerAddr>,
    config: Config,
    client: Arc<OnceCell<Client>>,
    /// How often the connection was made; the client makes it anew without a word.
    connections: Arc<AtomicU64>,
}

impl Nats {
    /// Does not connect yet.
    pub(crate) fn open(url: &str, config: &Config) -> Result<Self, std::io::Error> {
        let servers = url.split(',').map(|server| server.trim().parse()).collect::<Result<_, _>>()?;
        let link = Link { servers, config: config.clone(), client: Arc::default(), connections: Arc::default() };
        Ok(Self { link })
    }
}

impl Link {
    /// Connects behind the caller's back, again and again.
    async fn client(&self) -> Result<Client, Failure> {
        self.client.get_or_try_init(|| self.connect()).await.cloned()
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let rest = |attempts: usize| Duration::from_millis(50 << attempts.min(5)).min(LONGEST_REST);
        let connections = Arc::clone(&self.connections);
        let count = move |event| {
            if matches!(event, Event::Connected) {
                connections.fetch_add(1, Ordering::SeqCst);
            }
            std::future::ready(())
        };
        let mut options = ConnectOptions::new()
            .event_callback(count)
            .name("nearfield gateway")
            .retry_on_initial_connect()
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            .ping_interval(PING)
            .reconnect_delay_callback(rest);
        if let Some(file) = &self.config.credentials {
            options = options.credentials_file(file).await.map_err(Failure::of)?;
        }
        options.connect(&self.servers[..]).await.map_err(Failure::of)
    }

    async fn context(&self) -> Result<Context, Failure> {
        Ok(jetstream::new(self.client().await?))
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// The log, made where there is none.
    async fn log(&self) -> Result<stream::Stream, Failure> {
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![SUBJECT.to_owned()],
            description: Some("purges of caches, told between gateways".to_owned()),
            max_messages: i64::from(KEPT),
            max_age: 2 * BACK,
            num_replicas: self.config.replicas,
            ..stream::Config::default()
        };
        self.context().await?.get_or_create_stream(config).await.map_err(Failure::of)
    }

    /// Who is there: the last word of each, for as long as it holds.
    async fn gateways(&self) -> Result<stream::Stream, Failure> {
        let config = stream::Config {
            name: PRESENT.to_owned(),
            subjects: vec![format!("{PRESENT_SUBJECTS}>")],
            description: Some("gateways that are there".to_owned()),
            max_messages_per_subject: 1,
            max_age: PRESENCE,
            storage: StorageType::Memory,
            num_replicas: self.config.replicas,
            ..stream::Config::default()
        };
        self.context().await?.get_or_create_stream(config).await.map_err(Failure::of)
    }
}

#[async_trait::async_trait]
impl Feed for Nats {
    async fn append(&self, records: &[Vec<u8>]) -> Result<(), Failure> {
        in_time(async {
            let context = self.link.context().await?;
            let mut acknowledged = Vec::with_capacity(records.len());
            for record in records {
                let payload = bytes::Bytes::copy_from_slice(record);
                acknowledged.push(context.publish(SUBJECT, payload).await.map_err(Failure::of)?);
            }
            for ack in acknowledged {
                ack.await.map_err(Failure::of)?;
            }
            Ok(())
        })
        .await
    }

    fn follow(&self) -> Box<dyn Follower> {
        Box::new(Place::new(self.link.clone()))
    }

    async fn attend(&self, name: &str) -> Result<(), Failure> {
        in_time(async {
            self.link.gateways().await?;
            let subject = format!("{PRESENT_SUBJECTS}{name}");
            let published = self.link.context().await?.publish(subject, bytes::Bytes::new()).await;
            published.map_err(Failure::of)?.await.map_err(Failure::of)?;
            Ok(())
        })
        .await
    }

    async fn present(&self) -> Result<Vec<String>, Failure> {
        in_time(async {
            let gateways = self.link.gateways().await?;
            let subjects = gateways.info_with_subjects(format!("{PRESENT_SUBJECTS}>")).await.map_err(Failure::of)?;
            let subjects: Vec<(String, usize)> = subjects.try_collect().await.map_err(Failure::of)?;
            let name = |(subject, _): (String, usize)| subject.strip_prefix(PRESENT_SUBJECTS).map(str::to_owned);
            Ok(subjects.into_iter().filter_map(name).collect())
        })
        .await
    }

    async fn confirm(&self, question: u64, name: &str) -> Result<(), Failure> {
        let subject = format!("{CONFIRMED_SUBJECTS}{question:016x}");
        let payload = bytes::Bytes::copy_from_slice(name.as_bytes());
        in_time(async { self.link.client().await?.publish(subject, payload).await.map_err(Failure::of) }).await
    }

    async fn confirmations(&self, question: u64) -> Result<Box<dyn Confirmations>, Failure> {
        let subject = format!("{CONFIRMED_SUBJECTS}{question:016x}");
        let client = self.link.client().await?;
        let subscriber = client.subscribe(subject).await.map_err(Failure::of)?;
        // Sent before whatever is sent from now on.
        Ok(Box::new(Confirmed(subscriber)))
    }
}

struct Confirmed(Subscriber);

#[async_trait::async_trait]
impl Confirmations for Confirmed {
    async fn next(&mut self) -> Result<Vec<String>, Failure> {
        let message = self.0.next().await.ok_or(Failure::Late)?;
        Ok(vec![String::from_utf8_lossy(&message.payload).into_owned()])
    }
}
