//! Small collections, which share the files of a checkpoint: few files for many of them, and nothing lost through kills,
//! deletes and flipped bits.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use nearfield_proto::v1;
use nearfield_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::faults::files;
use crate::process::{Served, command, number};
use crate::running::point;

const COLLECTIONS: usize = 150;
const POINTS: usize = 4;
const WIDTH: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// Of each collection, what its points hold.
type Expected = BTreeMap<String, BTreeMap<String, Vec<f32>>>;

/// Gives points of a collection new values.
async fn write(served: &Served, name: &str, held: &mut BTreeMap<String, Vec<f32>>, random: &mut SmallRng) {
    let fresh: Vec<(String, Vec<f32>)> = (0..POINTS)
        .map(|_| {
            let values = (0..4).map(|_| random.random_range(-1.0..1.0)).collect();
            (format!("p{}", random.random_range(0..2 * POINTS)), values)
        })
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect();
    let vectors = fresh.iter().map(|(id, values)| point(id, values, "")).collect();
    served.points().insert(v1::InsertRequest { collection: name.into(), vectors }).await.unwrap();
    held.extend(fresh);
}

async fn check(served: &Served, expected: &Expected) {
    let listed = served.collections().list(v1::ListCollectionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.collections.len(), expected.len());
    for (name, held) in expected {
        let records = served.fetch(name, held.keys().cloned().collect()).await;
        let found: BTreeMap<String, Vec<f32>> = records.into_iter().map(|record| (record.id, record.values)).collect();
        assert_eq!(found, *held, "{name}");
        let (id, query) = held.first_key_value().unwrap();
        let request = v1::SearchRequest { collection: name.clone(), query: query.clone(), k: 1, ..Default::default() };
        assert_eq!(served.points().search(request).await.unwrap().into_inner().results[0].vector_id, *id, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_collections_come_back_from_few_files() {
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = command(directory.path());
        command.env("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "10000").env("NEARFIELD_LOG__LEVEL", "error");
        Served::start(command)
    };
    let seed = number("NEARFIELD_SEED").unwrap_or_else(rand::random);
    println!("NEARFIELD_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut served = start().await.unwrap();
    let names: Vec<String> = (0..COLLECTIONS).map(|number| format!("c{number:03}")).collect();
    let creating = futures::stream::iter(&names).map(|name| served.create(name, 4));
    creating.buffer_unordered(WIDTH).collect::<Vec<()>>().await;
    let mut expected = Expected::new();
    for name in &names {
        write(&served, name, expected.entry(name.clone()).or_default(), &mut random).await;
    }
    for _ in 0..4 {
        for _ in 0..COLLECTIONS {
            let name = expected.keys().nth(random.random_range(0..expected.len())).unwrap().clone();
            write(&served, &name, expected.get_mut(&name).unwrap(), &mut random).await;
        }
        let (gone, _) = expected.pop_first().unwrap();
        served.collections().delete(v1::DeleteCollectionRequest { name: gone }).await.unwrap();
        served.process.kill().unwrap();
        served = start().await.unwrap();
        check(&served, &expected).await;
    }
    let collections = directory.path().join("collections");
    let few = || async { (1..20).contains(&files(&collections).len()).then_some(()) };
    eventually("few files", PATIENCE, few).await.unwrap();
    served.process.kill().unwrap();
    for _ in 0..number("NEARFIELD_KILLS").unwrap_or(12) {
        let all = files(&collections);
        let file = &all[random.random_range(0..all.len())];
        let whole = std::fs::read(file).unwrap();
        let (mut damaged, bit) = (whole.clone(), random.random_range(0..whole.len() * 8));
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(file, damaged).unwrap();
        match start().await {
            // What a collection wrote anew elsewhere.
            Ok(served) => {
                check(&served, &expected).await;
                served.process.kill().unwrap();
            }
            Err(refusal) => {
                let (words, name) = (format!("{refusal:#}"), file.file_name().unwrap().to_string_lossy());
                assert!(words.contains(&*name) && !words.contains("panicked"), "bit {bit} of {name}: {words}");
            }
        }
        if file.exists() {
            std::fs::write(file, &whole).unwrap();
        }
    }
    check(&start().await.unwrap(), &expected).await;
}
