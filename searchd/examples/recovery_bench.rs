//! How long a searchd takes to come back: `cargo run --release -p nearfield-searchd --example recovery_bench -- log|disk [ROWS]`.
//!
//! `log`: so many acknowledged inserts of one 384-d point each, none of them in a checkpoint, then kill -9. `disk`: so many
//! points at rest, nearly all in one sealed segment, and a checkpoint. Each is then started again, several times, and timed from the start of the
//! process until the ready line and until the first answer, which is compared with the exact one. `--url` of an object
//! storage, or `--emulated` for one that is started here, also times a start from an empty directory, and says how much of
//! the data had come by the first answer.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use futures::{StreamExt, TryStreamExt};
use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use nearfield_testkit::ObjectStorage;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tonic::transport::Channel;

const DIMENSION: u32 = 384;
const STARTS: usize = 5;
const IN_FLIGHT: usize = 512;
/// Points of one insert when segments are wanted.
const BLOCK: u64 = 1_000;
const CENTRES: u64 = 4_000;
const INDEXING: Duration = Duration::from_secs(3_600);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rows of the head that stay there at rest, and the part of the largest segment that is beside it at most.
const AT_REST: u64 = 256;
const BESIDE: u64 = 16;

#[derive(Parser)]
struct Arguments {
    what: What,
    #[arg(default_value_t = 100_000)]
    rows: u64,
    /// An object storage for a start from nothing
    #[arg(long)]
    url: Option<String>,
    /// The same from servers of the tests: a directory, moto, fake-gcs-server
    #[arg(long, value_delimiter = ',', conflicts_with = "url")]
    emulated: Vec<Emulated>,
    /// Where the points of `disk` are made and stay, to be used again
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum What {
    Disk,
    Log,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Emulated {
    Directory,
    S3,
    Gcs,
}

impl Emulated {
    fn start(self) -> Result<ObjectStorage> {
        match self {
            Self::Directory => ObjectStorage::local(),
            Self::S3 => ObjectStorage::s3(),
            Self::Gcs => ObjectStorage::gcs(),
        }
    }
}

struct Served {
    child: Child,
    grpc: String,
    channel: Channel,
    ready: Duration,
    began: Instant,
}

/// Of the same build.
fn program() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.parent().and_then(Path::parent).context("target/release")?.join("searchd"))
}

async fn start(directory: &Path, settings: &[(&str, &str)]) -> Result<Served> {
    let began = Instant::now();
    let mut child = Command::new(program()?)
        .env("NEARFIELD_SERVER__LISTEN", "127.0.0.1:0")
        .env("NEARFIELD_SERVER__ADMIN", "127.0.0.1:0")
        .env("NEARFIELD_STORAGE__DATA_DIR", directory)
        .env("NEARFIELD_LOG__LEVEL", "warn")
        .envs(settings.iter().copied())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
    let ready = began.elapsed();
    let said: serde_json::Value = serde_json::from_str(line.strip_prefix("ready ").context("a ready line")?)?;
    let grpc = said["grpc"].as_str().context("an address")?.to_owned();
    let channel = Channel::from_shared(grpc.clone())?.connect().await?;
    Ok(Served { child, grpc, channel, ready, began })
}

impl Served {
    fn points(&self) -> VectorSearchClient<Channel> {
        VectorSearchClient::new(self.channel.clone())
    }

    /// Time from the start of the process until the answer that this point is its own nearest.
    async fn answers(&self, row: u64) -> Result<Duration> {
        let request = v1::SearchRequest { collection: "c".into(), query: values(row), k: 1, ..Default::default() };
        let found = self.points().search(request).await?.into_inner().results;
        ensure!(found.first().is_some_and(|hit| hit.vector_id == id(row)), "{found:?} instead of {}", id(row));
        Ok(self.began.elapsed())
    }

    /// Time since `filling` began until nearly all is in one segment, as it is some time after the last write.
    async fn settle(&self, filling: Instant) -> Result<Duration> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while filling.elapsed() < INDEXING {
            looks.tick().await;
            let probe = v1::SearchRequest {
                collection: "c".into(),
                query: values(0),
                k: 1,
                explain: true,
                ..Default::default()
            };
            let explanation = self.points().search(probe).await?.into_inner().explanation.context("an explanation")?;
            let is_head = |part: &&v1::SegmentExplanation| part.segment == "head";
            let waiting: u64 = explanation.segments.iter().filter(is_head).map(|head| head.rows).sum();
            let sealed = explanation.segments.iter().filter(|part| !is_head(part)).map(|part| part.live);
            let (largest, all) =
                sealed.fold((0, 0), |(largest, all): (u64, u64), live| (largest.max(live), all + live));
            if waiting < AT_REST && all - largest <= largest / BESIDE {
                return Ok(filling.elapsed());
            }
        }
        anyhow::bail!("not at rest within {INDEXING:?}")
    }

    /// SIGTERM, and then as long as it takes.
    fn stop(mut self) -> Result<()> {
        // SAFETY: kill(2) takes no pointers, and the child has not been reaped.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        ensure!(self.child.wait()?.success(), "searchd did not stop in order");
        Ok(())
    }

    fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

fn id(row: u64) -> String {
    format!("p{row:08}")
}

/// Around one of many centres, as embeddings are: noise has no neighbourhoods to find.
fn values(row: u64) -> Vec<f32> {
    let mut centre = SmallRng::seed_from_u64(u64::MAX - row % CENTRES);
    let mut random = SmallRng::seed_from_u64(row);
    (0..DIMENSION).map(|_| centre.random_range(-1.0..1.0) + random.random_range(-0.5..0.5)).collect()
}

fn block(rows: std::ops::Range<u64>) -> v1::InsertRequest {
    let point = |row| v1::Point { id: id(row), values: values(row), metadata: format!("{{\"n\":{row}}}").into() };
    v1::InsertRequest { collection: "c".into(), vectors: rows.map(point).collect() }
}

async fn fill(served: &Served, rows: u64, size: u64) -> Result<()> {
    let settings = Some(v1::CollectionSettings { dimension: DIMENSION, ..Default::default() });
    let request = v1::CreateCollectionRequest { name: "c".into(), settings };
    CollectionsClient::new(served.channel.clone()).create(request).await?;
    let inserting = futures::stream::iter((0..rows).step_by(size as usize)).map(|first| {
        let mut points = served.points();
        async move { points.insert(block(first..(first + size).min(rows))).await.map(drop) }
    });
    let in_flight = if size == 1 { IN_FLIGHT } else { 2 };
    inserting.buffer_unordered(in_flight).try_collect::<Vec<()>>().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (scratch, rows) = (tempfile::tempdir()?, arguments.rows);
    let directory = arguments.directory.as_deref().unwrap_or_else(|| scratch.path());
    let no_checkpoints = ("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "1000000000000");
    let settings: Vec<(&str, &str)> = match arguments.what {
        What::Disk => Vec::new(),
        What::Log => vec![
            no_checkpoints,
            ("NEARFIELD_ENGINE__SEAL_ROWS", "1000000000"),
            ("NEARFIELD_ENGINE__WAITING_BYTES", "0"),
        ],
    };
    if !directory.join("MANIFEST").exists() {
        let served = start(directory, &settings).await?;
        let filling = Instant::now();
        fill(&served, rows, if arguments.what == What::Log { 1 } else { BLOCK }).await?;
        println!(
            "{rows} points of {DIMENSION} dimensions were acknowledged in {:.1} s",
            filling.elapsed().as_secs_f64()
        );
        match arguments.what {
            // Its last act is to write a checkpoint.
            What::Disk => {
                println!("at rest after {:.1} s", served.settle(filling).await?.as_secs_f64());
                served.stop()?;
            }
            What::Log => served.kill()?,
        }
    }
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(began(start(directory, &settings).await?, directory, rows).await?);
    }
    report("restart", &starts);
    if let Some(url) = &arguments.url {
        report("start from object storage", &from_storage(directory, url, &[], rows).await?);
    }
    for emulated in &arguments.emulated {
        let storage = emulated.start()?;
        let environment: Vec<_> = storage.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let starts = from_storage(directory, &storage.url, &environment, rows).await?;
        report(&format!("start from object storage ({})", storage.name), &starts);
    }
    Ok(())
}

/// Backs the directory up to the storage, and starts from there with empty ones.
async fn from_storage(directory: &Path, url: &str, environment: &[(&str, &str)], rows: u64) -> Result<Vec<Start>> {
    let archive = [("NEARFIELD_ARCHIVE__URL", url), ("NEARFIELD_ARCHIVE__BACKUP_EVERY", "0s")];
    let archive = [&archive, environment].concat();
    let served = start(directory, &archive).await?;
    let made = Command::new(program()?)
        .args(["backup", "create", "--server", &served.grpc])
        .envs(archive.iter().copied())
        .status()?;
    ensure!(made.success(), "no backup was made");
    served.kill()?;
    let from = [&[("NEARFIELD_STORAGE__RESTORE_FROM", url)], environment].concat();
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let fresh = tempfile::tempdir()?;
        starts.push(began(start(fresh.path(), &from).await?, fresh.path(), rows).await?);
    }
    Ok(starts)
}

/// How one start went.
struct Start {
    ready: Duration,
    first: Duration,
    /// Of the data directory on the disk by the first answer: of a start from object storage, what had come.
    bytes: u64,
}

/// Times a start, and ends it.
async fn began(served: Served, directory: &Path, rows: u64) -> Result<Start> {
    let first = served.answers(rows / 2).await?;
    let bytes = stored(directory)?;
    // Others are right, too.
    for row in [0, rows - 1] {
        served.answers(row).await?;
    }
    let ready = served.ready;
    served.kill()?;
    Ok(Start { ready, first, bytes })
}

/// Bytes on the disk, holes left out.
fn stored(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let meta = std::fs::metadata(&path)?;
        bytes += if meta.is_dir() { stored(&path)? } else { meta.blocks() * 512 };
    }
    Ok(bytes)
}

fn report(what: &str, starts: &[Start]) {
    let spread = |of: fn(&Start) -> u64| {
        let mut all: Vec<u64> = starts.iter().map(of).collect();
        all.sort_unstable();
        format!("{} / {} / {}", all[0], all[all.len() / 2], all[all.len() - 1])
    };
    println!(
        "{what}, min / median / max of {}: ready after {} ms, first answer after {} ms with {} MB on the disk",
        starts.len(),
        spread(|start| start.ready.as_millis() as u64),
        spread(|start| start.first.as_millis() as u64),
        spread(|start| start.bytes / 1_000_000)
    );
}
