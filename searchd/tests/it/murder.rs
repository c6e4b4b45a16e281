//! Durability, proven by murder: the real process is killed with SIGKILL at random points under concurrent writes, and
//! what it then has is compared with what it acknowledged.
//!
//! `NEARFIELD_KILLS` sets how often (12 unless told), `NEARFIELD_SEED` repeats a run.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tonic::Code;
use tonic::transport::Channel;

use crate::process::{Served, command, number};
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

async fn check(process: &Served, expected: &mut Expected) {
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

async fn prepare(process: &Served) {
    process.create("c", 2).await;
    let vectors = (0..BYSTANDERS).map(|i| point(&format!("bystander-{i}"), &[i as f32, -1.0], "{\"n\":0}")).collect();
    let request = v1::InsertRequest { collection: "c".into(), vectors };
    VectorSearchClient::new(process.channel.clone()).insert(request).await.unwrap();
}

/// What a crash may leave behind what was synced: the beginning of a batch, sectors that were never written, rubbish.
fn tear(directory: &Path, random: &mut SmallRng) {
    let logs = std::fs::read_dir(directory.join("wal")).unwrap().map(|file| file.unwrap().path());
    let last = logs.max().unwrap();
    let whole = std::fs::read(&last).unwrap();
    let torn: Vec<u8> = match random.random_range(0..4) {
        0 => vec![],
        1 => vec![0; random.random_range(1..5_000)],
        2 => (0..random.random_range(1..5_000)).map(|_| random.random()).collect(),
        // Records that are there already: their numbers are not the next one's.
        _ => whole[..random.random_range(0..=whole.len())].to_vec(),
    };
    std::fs::OpenOptions::new().append(true).open(&last).unwrap().write_all(&torn).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_however_often_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let kills = number("NEARFIELD_KILLS").unwrap_or(12);
    let seed = number("NEARFIELD_SEED").unwrap_or_else(rand::random);
    println!("NEARFIELD_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut expected: Vec<Expected> = (0..WRITERS).map(|_| Expected::default()).collect();
    let mut process = Served::start(command(directory.path())).await.unwrap();
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
        process.process.kill().unwrap();
        tear(directory.path(), &mut random);
        for (writer, running) in writers.into_iter().enumerate() {
            expected[writer] = running.await.unwrap();
        }
        process = Served::start(command(directory.path())).await.unwrap();
        let mut all = Expected(expected.iter_mut().flat_map(|of_writer| std::mem::take(&mut of_writer.0)).collect());
        check(&process, &mut all).await;
        for (id, held) in all.0 {
            let writer: usize = id[1..id.find('-').unwrap()].parse().unwrap();
            expected[writer].0.insert(id, held);
        }
    }
}
