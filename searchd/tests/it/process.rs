//! A searchd in a process of its own, to be killed, starved and damaged.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::Process;
use tonic::transport::Channel;

const START: Duration = Duration::from_secs(60);

pub(crate) struct Served {
    pub(crate) process: Process,
    pub(crate) channel: Channel,
}

/// The command of a searchd on free ports over `directory`. Small limits: files rotate, checkpoints happen and segments
/// are sealed within moments.
pub(crate) fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_searchd"));
    command
        .env("NEARFIELD_SERVER__LISTEN", "127.0.0.1:0")
        .env("NEARFIELD_SERVER__ADMIN", "127.0.0.1:0")
        .env("NEARFIELD_STORAGE__DATA_DIR", directory)
        .env("NEARFIELD_STORAGE__LOG_FILE_BYTES", "30000")
        .env("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "40000")
        .env("NEARFIELD_ENGINE__SEAL_ROWS", "1024")
        .env("NEARFIELD_LOG__LEVEL", "warn")
        // What went wrong is to be the last that it says.
        .env("RUST_BACKTRACE", "0");
    command
}

impl Served {
    /// The error says what searchd said.
    pub(crate) async fn start(command: Command) -> anyhow::Result<Self> {
        let process = Process::start("searchd", command, START)?;
        let channel = Channel::from_shared(process.address("grpc")?)?.connect().await?;
        Ok(Self { process, channel })
    }

    pub(crate) fn points(&self) -> VectorSearchClient<Channel> {
        VectorSearchClient::new(self.channel.clone()).max_decoding_message_size(128 * 1024 * 1024)
    }

    pub(crate) fn collections(&self) -> CollectionsClient<Channel> {
        CollectionsClient::new(self.channel.clone())
    }

    pub(crate) async fn create(&self, name: &str, dimension: u32) {
        let settings = v1::CollectionSettings { dimension, metric: "euclidean".into(), ..Default::default() };
        let request = v1::CreateCollectionRequest { name: name.into(), settings: Some(settings) };
        self.collections().create(request).await.unwrap();
    }

    /// What the points of these ids hold.
    pub(crate) async fn fetch(&self, collection: &str, ids: Vec<String>) -> Vec<v1::Record> {
        let request = v1::FetchRequest { collection: collection.into(), ids, ..Default::default() };
        self.points().fetch(request).await.unwrap().into_inner().records
    }
}

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What the process's metrics endpoint says.
pub(crate) async fn metrics(served: &Served) -> Option<String> {
    metrics_of(&served.process.address("admin").ok()?).await
}

/// What the metrics endpoint at `http://address` says.
pub(crate) async fn metrics_of(admin: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(admin.strip_prefix("http://")?).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: searchd\r\nConnection: close\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}
