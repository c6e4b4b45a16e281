//! Durability, proven by murder: the real process is killed with SIGKILL at random points under concurrent writes, and
//! what it then has is compared with what it acknowledged.
//!
//! `NEARFIELD_KILLS` sets how often (12 unless told), `NEARFIELD_SEED` repeats a run.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nearfield_proto::v1;
use nearfield_proto::v1::collections_client::CollectionsClient;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tonic::Code;
use tonic::transport::Channel;

use crate::running::point;

const WRITERS: u64 = 4;
const IDS: u64 = 20;
/// Points that nobody touches: enough to be sealed into a segment.
const BYSTANDERS: u64 = 2_500;

/// What a point holds: the number in its vector, and the one in its metadata.
type Held = Option<(u32, u32)>;

/// What each id holds as acknowledged, and what it holds if the write under way got through.
#[derive(Default)]
struct Expected(BTreeMap<String, (Held, Option<Held>)>);

struct Process {
    child: Child,
    channel: Channel,
}

impl Process {
    async fn start(directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_searchd"))
            .env("NEARFIELD_SERVER__LISTEN", "127.0.0.1:0")
            .env("NEARFIELD_SERVER__ADMIN", "127.0.0.1:0")
            .env("NEARFIELD_STORAGE__DATA_DIR", directory)
            // Small, so that files rotate, checkpoints happen and segments are sealed within moments.
            .env("NEARFIELD_STORAGE__LOG_FILE_BYTES", "30000")
            .env("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "40000")
            .env("NEARFIELD_ENGINE__SEAL_ROWS", "1024")
            .env("NEARFIELD_LOG__LEVEL", "warn")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(line.strip_prefix("ready ").unwrap()).unwrap();
        let grpc = ready["grpc"].as_str().unwrap().to_owned();
        let channel = Channel::from_shared(grpc).unwrap().connect().await.unwrap();
        Self { child, channel }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes to its own ids until the process is gone.
async fn write(
    channel: Channel,
    writer: u64,
    mut expected: Expected,
    seed: u64,
    acknowledged: Arc<AtomicU64>,
) -> Expected {
    let mut points = VectorSearchClient::new(channel);
    let mut random = SmallRng::seed_from_u64(seed);
    loop {
        let id = format!("w{writer}-{}", random.random_range(0..IDS));
        let (vector, number) = (random.random_range(1..1_000), random.random_range(1..1_000));
        let entry = expected.0.entry(id.clone()).or_default();
        let (before, collection) = (entry.0, "c".to_owned());
        let choice = random.random_range(0..10);
        let (after, outcome) = match (before, choice) {
            (None, _) | (Some(_), 0..4) => {
                let after = Some((vector, number));
                entry.1 = Some(after);
                let vectors = vec![point(&id, &[vector as f32, 1.0], &format!("{{\"n\":{number}}}"))];
                (after, points.insert(v1::InsertRequest { collection, vectors }).await.map(drop))
            }
            (Some((vector, _)), 4..8) => {
                let after = Some((vector, number));
                entry.1 = Some(after);
                let metadata = format!("{{\"n\":{number}}}").into();
                let request = v1::UpdateRequest { collection, id, metadata, ..Default::default() };
                (after, points.update(request).await.map(drop))
            }
            (Some(_), _) => {
                entry.1 = Some(None);
                let request = v1::DeleteRequest { collection, ids: vec![id], ..Default::default() };
                (None, points.delete(request).await.map(drop))
            }
        };
        match outcome {
            Ok(()) => {
                *entry = (after, None);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                // The process is gone, whatever the client makes of it; a refusal would be another matter.
                assert!(!matches!(status.code(), Code::InvalidArgument | Code::NotFound | Code::Aborted), "{status:?}");
                return expected;
            }
        }
    }
}

async fn held(points: &mut VectorSearchClient<Channel>, ids: Vec<String>) -> BTreeMap<String, (u32, u32)> {
    let request = v1::FetchRequest { collection: "c".into(), ids, ..Default::default() };
    let records = points.fetch(request).await.unwrap().into_inner().records;
    let read = |record: v1::Record| {
        let metadata: serde_json::Value = serde_json::from_slice(&record.metadata).unwrap();
        (record.id, (record.values[0] as u32, metadata["n"].as_u64().unwrap() as u32))
    };
    records.into_iter().map(read).collect()
}

async fn check(process: &Process, expected: &mut Expected) {
    let mut points = VectorSearchClient::new(process.channel.clone());
    let found = held(&mut points, expected.0.keys().cloned().collect()).await;
    for (id, (acknowledged, under_way)) in &mut expected.0 {
        let now = found.get(id).copied();
        assert!(
            now == *acknowledged || Some(now) == *under_way,
            "{id}: {now:?}, acknowledged {acknowledged:?}, under way {under_way:?}"
        );
        (*acknowledged, *under_way) = (now, None);
    }
    // The index agrees with the records.
    let search = v1::SearchRequest {
        collection: "c".into(),
        query: vec![1.0, 1.0],
        k: 10_000,
        exact: true,
        ..Default::default()
    };
    let hits = points.search(search).await.unwrap().into_inner().results;
    assert_eq!(hits.len() as u64, found.len() as u64 + BYSTANDERS);
}

async fn prepare(process: &Process) {
    let settings = Some(v1::CollectionSettings { dimension: 2, metric: "euclidean".into(), ..Default::default() });
    let request = v1::CreateCollectionRequest { name: "c".into(), settings };
    CollectionsClient::new(process.channel.clone()).create(request).await.unwrap();
    let vectors = (0..BYSTANDERS).map(|i| point(&format!("bystander-{i}"), &[i as f32, -1.0], "{\"n\":0}")).collect();
    let request = v1::InsertRequest { collection: "c".into(), vectors };
    VectorSearchClient::new(process.channel.clone()).insert(request).await.unwrap();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_however_often_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let kills = number("NEARFIELD_KILLS").unwrap_or(12);
    let seed = number("NEARFIELD_SEED").unwrap_or_else(rand::random);
    println!("NEARFIELD_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut expected: Vec<Expected> = (0..WRITERS).map(|_| Expected::default()).collect();
    let mut process = Process::start(directory.path()).await;
    prepare(&process).await;
    for _ in 0..kills {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let expected = std::mem::take(&mut expected[writer as usize]);
                let seed = random.random();
                tokio::spawn(write(process.channel.clone(), writer, expected, seed, acknowledged.clone()))
            })
            .collect();
        let enough = random.random_range(1..400);
        while acknowledged.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
        process.kill();
        for (writer, running) in writers.into_iter().enumerate() {
            expected[writer] = running.await.unwrap();
        }
        process = Process::start(directory.path()).await;
        let mut all = Expected(expected.iter_mut().flat_map(|of_writer| std::mem::take(&mut of_writer.0)).collect());
        check(&process, &mut all).await;
        for (id, held) in all.0 {
            let writer: usize = id[1..id.find('-').unwrap()].parse().unwrap();
            expected[writer].0.insert(id, held);
        }
    }
}
