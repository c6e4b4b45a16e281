//! Against a real directory, by caches that come and go as processes do.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::{Age, Audience, Found, Lifetime, Memory, Purge, Tag, Tags, Tier, Tiered};

/// Long: the tests share few cores and a disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// One process's cache: hardly any memory, and a disk.
struct Process {
    cache: Tiered,
    disk: Arc<Disk>,
}

impl Process {
    fn start(path: &Path, memory: u64) -> Self {
        let clock = Clock::start();
        let (invalidation, metrics) = (Invalidation::new(clock), Arc::new(Metrics::default()));
        let config = Config { path: Some(path.to_owned()), bytes: MIN_BYTES, patience: PATIENCE };
        let disk = Disk::start(&config, clock, &invalidation, Arc::clone(&metrics)).unwrap().unwrap();
        let disk = Arc::new(disk);
        let behind = vec![(Tier::Disk, Arc::clone(&disk) as Arc<dyn Store>)];
        Self { cache: Tiered::new(clock, invalidation, metrics, Memory::new(memory), behind), disk }
    }

    /// When it has read what an earlier one left.
    async fn opened(path: &Path) -> Self {
        let process = Self::start(path, 0);
        eventually("the directory is open", || async { process.disk.is_up() }).await;
        process
    }

    fn entry(&self, body: impl Into<Bytes>) -> Arc<Entry> {
        let seconds = Duration::from_secs(300);
        let lifetime = Lifetime { fresh: seconds, if_error: seconds, ..Lifetime::default() };
        let (stamp, tags) = (self.cache.invalidation.begin(), Tags::new(None, "shoes", None));
        Arc::new(Entry::new(StatusCode::OK, Vec::new(), body.into(), stamp, lifetime, tags))
    }

    async fn store(&self, id: &str, body: impl Into<Bytes>) {
        self.cache.store(key(id), self.entry(body)).await;
    }

    async fn found(&self, id: &str) -> Option<Found> {
        match self.cache.peek(&key(id), &HeaderMap::new()) {
            Some(found) => Some(found),
            None => self.cache.fetch(&key(id), &HeaderMap::new()).await,
        }
    }

    async fn body(&self, id: &str) -> Option<Bytes> {
        self.found(id).await.map(|found| found.entry.body.clone())
    }

    /// When all that was stored or removed has been written.
    async fn written(&self, answers: u64) {
        eventually("all is written", || async {
            self.disk.len() == answers && self.disk.shared.queued_bytes.load(Ordering::Relaxed) == 0
        })
        .await;
    }

    /// Ends, and waits until the directory is anybody's.
    async fn end(self, path: &Path) {
        drop(self);
        let lock = std::fs::File::open(path.join("lock")).unwrap();
        eventually("the directory is let go", || async { lock.try_lock().is_ok() }).await;
    }
}

fn key(id: &str) -> Key {
    Key::embed(Audience { tenant: None, scope: "vectors:read" }, "shoes", id)
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = timeout(Duration::from_secs(30), async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

fn shoes() -> Purge {
    Purge::tag(Tag::collection(None, "shoes"))
}

fn files(path: &Path, suffix: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
}

fn bytes_of(path: &Path) -> u64 {
    files(path, "").iter().map(|file| std::fs::metadata(file).map_or(0, |file| file.len())).sum()
}

#[tokio::test]
async fn what_memory_has_no_room_for_is_on_disk_and_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::opened(directory.path()).await;
    for i in 0..100 {
        process.store(&i.to_string(), vec![i; 10_000]).await;
    }
    process.written(100).await;
    let found = process.found("7").await.unwrap();
    assert_eq!((found.tier, found.entry.body[0]), (Tier::Disk, 7));
    assert!(process.found("100").await.is_none());
    process.end(directory.path()).await;

    let process = Process::opened(directory.path()).await;
    assert_eq!(process.disk.len(), 100);
    for i in 0..100 {
        let found = process.found(&i.to_string()).await.unwrap();
        assert!(matches!(found.age, Age::Fresh { .. }) && found.entry.body == vec![i; 10_000]);
    }
    // The later of two answers, and none where the later was that there is none.
    process.store("7", "new").await;
    process.cache.remove(&key("8"));
    process.written(99).await;
    assert_eq!((process.body("7").await, process.body("8").await), (Some("new".into()), None));
    process.end(directory.path()).await;
    let process = Process::opened(directory.path()).await;
    assert_eq!((process.body("7").await, process.body("8").await), (Some("new".into()), None));
    assert_eq!(process.disk.len(), 99);
}

#[tokio::test]
async fn what_was_purged_does_not_come_back_with_another_process() {
    let everything = Purge::EVERYTHING;
    let point = Purge::tag(Tag::tenant(None));
    for purge in [shoes(), everything, point, shoes().over(300), everything.over(300)] {
        let directory = tempfile::tempdir().unwrap();
        let process = Process::opened(directory.path()).await;
        process.store("1", "old").await;
        process.written(1).await;
        let before = process.entry("late");
        process.cache.invalidation.purge(purge);
        if purge.over == 0 {
            assert!(process.found("1").await.is_none(), "{purge:?}");
        }
        // One that was on its way: it gets to the disk, and is none.
        process.disk.put(key("2"), before).await;
        process.written(2).await;
        process.end(directory.path()).await;

        let process = Process::opened(directory.path()).await;
        assert_eq!(process.disk.len(), 2, "it is there, …");
        assert!(process.found("1").await.is_none() && process.found("2").await.is_none(), "… and judged: {purge:?}");
        process.store("1", "new").await;
        process.written(2).await;
        assert_eq!(process.body("1").await, Some("new".into()));
    }
}

#[tokio::test]
async fn what_was_purged_softly_is_stale_for_another_process_too() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::opened(directory.path()).await;
    process.store("1", "old").await;
    process.written(1).await;
    process.cache.invalidation.purge(shoes().softly(true));
    process.end(directory.path()).await;
    let process = Process::opened(directory.path()).await;
    assert!(matches!(process.found("1").await.unwrap().age, Age::Stale { .. }));
}

#[tokio::test]
async fn a_newer_process_waits_for_the_older_and_knows_its_purges() {
    let directory = tempfile::tempdir().unwrap();
    let older = Process::opened(directory.path()).await;
    let newer = Process::start(directory.path(), 0);
    older.store("1", "one").await;
    older
        .cache
        .store(key("2"), {
            let entry = older.entry("two");
            Arc::new(Entry { tags: Tags::new(None, "hats", None), ..(*entry).clone() })
        })
        .await;
    older.written(2).await;
    // Each of them purges while the other has not heard of it.
    older.cache.invalidation.purge(shoes());
    newer.cache.invalidation.purge(Purge::tag(Tag::collection(None, "hats")));
    assert!(!newer.disk.is_up() && newer.found("1").await.is_none());
    drop(older);
    eventually("it is the newer's", || async { newer.disk.is_up() }).await;
    assert_eq!(newer.disk.len(), 2);
    assert!(newer.found("1").await.is_none() && newer.found("2").await.is_none());
    newer.end(directory.path()).await;
    let last = Process::opened(directory.path()).await;
    assert!(last.found("1").await.is_none() && last.found("2").await.is_none());
}

#[tokio::test]
async fn the_directory_never_has_more_than_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::opened(directory.path()).await;
    for i in 0..400 {
        process.store(&i.to_string(), vec![i as u8; 100_000]).await;
        eventually("it is written", || async { process.disk.shared.queued_bytes.load(Ordering::Relaxed) == 0 }).await;
        assert!(bytes_of(directory.path()) <= MIN_BYTES);
    }
    assert!(process.disk.bytes() <= MIN_BYTES && process.disk.len() > 100, "{}", process.disk.len());
    assert!(process.found("0").await.is_none() && process.found("399").await.is_some());
    let kept = process.disk.len();
    process.end(directory.path()).await;
    let process = Process::opened(directory.path()).await;
    assert_eq!(process.disk.len(), kept);
    assert!(process.found("399").await.is_some());
}

#[tokio::test]
async fn a_key_that_looks_alike_gets_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::opened(directory.path()).await;
    let mut other = *key("1").as_bytes();
    other[20] ^= 1;
    let other = Key::from_bytes(other);
    process.store("1", "mine").await;
    process.written(1).await;
    assert_eq!(process.disk.shared.index.find(&other), process.disk.shared.index.find(&key("1")));
    assert!(process.disk.get(&other).await.is_none());
    assert_eq!(process.cache.metrics.snapshot().disk_damaged, 1);
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_no_ones_trouble() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let process = Process::start(&file.path().join("cache"), 1 << 20);
    eventually("it failed", || async { process.cache.metrics.snapshot().disk_failures > 0 }).await;
    assert!(!process.disk.is_up());
    process.store("1", "one").await;
    assert_eq!(process.body("1").await, Some("one".into()));
    assert!(process.found("2").await.is_none());
    let config = Config { path: Some("x".into()), bytes: MIN_BYTES - 1, ..Config::default() };
    let clock = Clock::start();
    let started = Disk::start(&config, clock, &Invalidation::new(clock), Arc::default());
    assert!(matches!(started, Err(StartError::TooSmall(_))));
}

/// A directory with answers of several sizes, as a process left it.
fn left(runtime: &Runtime) -> (tempfile::TempDir, HashMap<String, Bytes>) {
    let directory = tempfile::tempdir().unwrap();
    let bodies: HashMap<String, Bytes> =
        (0..20_usize).map(|i| (i.to_string(), Bytes::from(vec![i as u8; i * 97]))).collect();
    runtime.block_on(async {
        let process = Process::opened(directory.path()).await;
        for (id, body) in &bodies {
            process.store(id, body.clone()).await;
        }
        process.written(20).await;
        process.end(directory.path()).await;
    });
    (directory, bodies)
}

/// What another process finds of it: nothing that was not there.
fn check(runtime: &Runtime, directory: &Path, bodies: &HashMap<String, Bytes>) -> usize {
    runtime.block_on(async {
        let process = Process::opened(directory).await;
        let mut found = 0;
        for (id, body) in bodies {
            if let Some(read) = process.body(id).await {
                assert!(read == *body, "another answer under {id}");
                found += 1;
            }
        }
        process.end(directory).await;
        found
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Answers that were torn or changed on disk are misses, and the others are as they were.
    #[test]
    fn damage_is_a_miss(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let runtime = Runtime::new().unwrap();
        let (directory, bodies) = left(&runtime);
        let segments = files(directory.path(), ".segment");
        let [segment] = &segments[..] else { panic!("{segments:?}") };
        let mut bytes = std::fs::read(segment).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        std::fs::write(segment, bytes).unwrap();
        let found = check(&runtime, directory.path(), &bodies);
        prop_assert!(found < bodies.len());
    }

    /// Nobody knows what was purged when the ledger is not what it was.
    #[test]
    fn without_its_ledger_nothing_is_believed(at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let runtime = Runtime::new().unwrap();
        let (directory, bodies) = left(&runtime);
        let ledger = directory.path().join("purges");
        let mut bytes = std::fs::read(&ledger).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        std::fs::write(&ledger, bytes).unwrap();
        prop_assert_eq!(check(&runtime, directory.path(), &bodies), 0);
        prop_assert_eq!(files(directory.path(), ".segment").len(), 0);
    }
}
