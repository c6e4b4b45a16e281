//! One peer's log, fetched and merged, for as long as the process runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nearfield_proto::log::v1 as log;
use nearfield_proto::log::v1::replication_client::ReplicationClient;
use rand::RngExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::commit::Committer;
use crate::commit::command::Refusal;
use crate::store::Store;

/// Largest message from a peer: one entry may be as large as the log allows.
const MAX_MESSAGE_BYTES: usize = 72 * 1024 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How a link fared, for metrics.
#[derive(Default)]
pub struct Link {
    pub connected: std::sync::atomic::AtomicBool,
    pub entries: AtomicU64,
    pub failures: AtomicU64,
}

/// The links to all peers. They end when this is stopped or dropped.
pub struct Links {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    pub states: Vec<(String, Arc<Link>)>,
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("connecting")]
    Connect(#[from] tonic::transport::Error),
    #[error("the peer ended the stream: {0}")]
    Stream(#[from] tonic::Status),
    #[error("storing what the peer sent")]
    Store(#[from] Refusal),
    #[error("the address leads to this instance itself")]
    Self_,
}

impl Links {
    /// `origin` is this instance's number,
    /// and `waiting_bytes` what may wait to be sealed in a collection before more is taken from a peer, 0 for no bound.
    pub fn start(peers: &[String], origin: u64, store: &Arc<Store>, committer: &Committer, waiting_bytes: u64) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut states = Vec::new();
        for peer in peers {
            let state = Arc::new(Link::default());
            states.push((peer.clone(), state.clone()));
            let tail = Tail {
                peer: peer.clone(),
                origin,
                store: store.clone(),
                committer: committer.clone(),
                waiting_bytes,
                state,
                peer_origin: None,
            };
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(tail.run()).await;
            });
        }
        Self { stop, tasks, states }
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Tail {
    peer: String,
    origin: u64,
    store: Arc<Store>,
    committer: Committer,
    waiting_bytes: u64,
    state: Arc<Link>,
    /// The peer's number, once it is known.
    peer_origin: Option<u64>,
}

impl Tail {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let before = self.state.entries.load(Ordering::Relaxed);
            let broken = self.follow().await;
            self.state.connected.store(false, Ordering::Relaxed);
            match broken {
                Ok(()) => {}
                Err(Broken::Self_) => {
                    tracing::error!(peer = self.peer, "this peer is this instance itself; not following it");
                    return;
                }
                Err(error) => {
                    self.state.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(peer = self.peer, error = &error as &dyn std::error::Error, "the link broke");
                }
            }
            let progress = self.state.entries.load(Ordering::Relaxed) > before;
            pause = if progress { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            // Jitter, so that instances that lost one peer together do not come back together.
            let jitter = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
        }
    }

    async fn follow(&mut self) -> Result<(), Broken> {
        let channel: Channel = Endpoint::from_shared(self.peer.clone())?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_while_idle(true)
            .connect()
            .await?;
        let mut client = ReplicationClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        // Who the peer is says its first message; until then nothing is known to be here. What comes twice merges.
        let known = self.peer_origin.map_or(0, |origin| self.store.read().clock().get(origin));
        let request = log::TailRequest { peer: self.origin, from: known + 1 };
        let mut responses = client.tail(request).await?.into_inner();
        while let Some(response) = responses.message().await? {
            if response.origin == self.origin {
                return Err(Broken::Self_);
            }
            if self.peer_origin != Some(response.origin) {
                self.peer_origin = Some(response.origin);
                if self.store.read().clock().get(response.origin) > known {
                    // Ask again, now for what is really missing.
                    return Ok(());
                }
            }
            self.state.connected.store(true, Ordering::Relaxed);
            let entries = response.entries.len() as u64;
            if entries > 0 {
                self.store.await_headroom(&response.entries, self.waiting_bytes).await;
                self.committer.replicate(response.entries).await?;
                self.state.entries.fetch_add(entries, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
