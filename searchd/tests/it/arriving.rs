//! A start from object storage that serves before its vectors have come: right answers at once, through kills, and none at
//! all rather than a wrong one when the storage fails. One suite, on a directory, on S3 and on Google Cloud Storage.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nearfield_proto::v1;
use nearfield_searchd::backup::Repository;
use nearfield_searchd::backup::restore::{Until, Wanted, restore};
use nearfield_testkit::{ObjectStorage, eventually};
use tonic::Code;

use crate::backup::{archived, backup, is_archived, metric};
use crate::faults::{DIMENSION, check, files, insert, sample};
use crate::process::{Served, command};

const PATIENCE: Duration = Duration::from_secs(120);
/// Blocks of points in the backup, in the log after it, and those of later.
const BACKED_UP: u64 = 200;
const ARCHIVED: u64 = 205;
const LATER: u64 = 210;

/// One segment of many rows: small ones are compared whole.
pub(crate) fn with_one_segment(mut command: Command) -> Command {
    command.env("NEARFIELD_ENGINE__SEAL_ROWS", "8192").env("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "1000000");
    command
}

/// A searchd that begins with nothing but what is there, and fetches nothing in the background: a byte a second.
pub(crate) fn starting(storage: &ObjectStorage, url: &str, directory: &Path) -> Command {
    let mut command = with_one_segment(command(directory));
    command.envs(storage.environment.iter().map(|(name, value)| (*name, value.as_str())));
    command.env("NEARFIELD_STORAGE__RESTORE_FROM", url).env("NEARFIELD_STORAGE__RESTORE_BYTES_PER_SECOND", "1");
    command
}

pub(crate) async fn missing(served: &Served) -> f64 {
    metric(served, "nearfield_searchd_restore_missing_bytes").await.expect("the metric")
}

/// The nearest to a block's first point.
async fn nearest(served: &Served, block: u64, exact: bool) -> Result<String, tonic::Status> {
    let request =
        v1::SearchRequest { collection: "c".into(), query: sample(block).values, k: 1, exact, ..Default::default() };
    Ok(served.points().search(request).await?.into_inner().results[0].vector_id.clone())
}

/// What is stored in the storage: most of it in one segment, the last of it in the log.
async fn fill(storage: &ObjectStorage, url: &str) {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(with_one_segment(archived(storage, url, directory.path()))).await.unwrap();
    served.create("c", DIMENSION as u32).await;
    for block in 0..BACKED_UP {
        insert(&served, block).await.unwrap();
    }
    let sealed = || async { (metric(&served, "nearfield_searchd_segments").await? >= 1.0).then_some(()) };
    eventually("a segment", PATIENCE, sealed).await.unwrap();
    let server = served.process.address("grpc").unwrap();
    backup(storage, url, directory.path(), &["create", "--server", &server]).unwrap();
    for block in BACKED_UP..ARCHIVED {
        insert(&served, block).await.unwrap();
    }
    is_archived(&served).await;
    served.process.kill().unwrap();
}

/// The first answers of a start are right while most is missing.
async fn answers_early(served: &Served, blocks: u64) {
    let before = missing(served).await;
    assert!(before > 2_000_000.0, "{before} bytes are missing");
    for block in [3, 77, BACKED_UP - 1, blocks - 1] {
        let wanted = sample(block);
        assert_eq!(nearest(served, block, false).await.unwrap(), wanted.id);
        assert_eq!(served.fetch("c", vec![wanted.id.clone()]).await[0].values, wanted.values);
    }
    let after = missing(served).await;
    assert!(after < before && after > before / 2.0, "{after} of {before} bytes are missing");
}

async fn answers_come_before_the_vectors(storage: ObjectStorage, fail: impl FnOnce(ObjectStorage)) {
    let url = format!("{}/a", storage.url);
    fill(&storage, &url).await;
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("ARRIVING");
    let served = Served::start(starting(&storage, &url, directory.path())).await.unwrap();
    answers_early(&served, ARCHIVED).await;
    for block in ARCHIVED..LATER {
        insert(&served, block).await.unwrap();
    }
    served.process.kill().unwrap();

    // What is there and what is not is known after a crash, and where the rest is, too.
    let mut again = starting(&storage, &url, directory.path());
    again.env_remove("NEARFIELD_STORAGE__RESTORE_FROM");
    let served = Served::start(again).await.unwrap();
    answers_early(&served, LATER).await;
    assert!(mark.exists());
    // All of it by what searches ask for.
    check(&served, &(0..LATER).step_by(30).collect::<Vec<_>>(), &(0..LATER).collect::<Vec<_>>()).await;
    served.process.kill().unwrap();

    // Without the bound everything comes by itself, and nothing of the storage is needed any more.
    let mut again = starting(&storage, &url, directory.path());
    again.env_remove("NEARFIELD_STORAGE__RESTORE_BYTES_PER_SECOND");
    let served = Served::start(again).await.unwrap();
    let whole = || async { (missing(&served).await == 0.0 && !mark.exists()).then_some(()) };
    eventually("everything has come", PATIENCE, whole).await.unwrap();
    served.process.kill().unwrap();

    let elsewhere = tempfile::tempdir().unwrap();
    let early = Served::start(starting(&storage, &url, elsewhere.path())).await.unwrap();
    assert_eq!(nearest(&early, 3, false).await.unwrap(), sample(3).id);
    fail(storage);
    assert_eq!(nearest(&early, 3, false).await.unwrap(), sample(3).id, "what has come is found");
    let refusal = nearest(&early, 4, true).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    drop(early);
    let served = Served::start(with_one_segment(command(directory.path()))).await.unwrap();
    check(&served, &(0..LATER).collect::<Vec<_>>(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_before_the_vectors_from_a_directory() {
    let storage = ObjectStorage::local().unwrap();
    answers_come_before_the_vectors(storage, |storage| {
        std::fs::remove_dir_all(storage.directory()).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_before_the_vectors_from_s3() {
    answers_come_before_the_vectors(ObjectStorage::s3().unwrap(), drop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_before_the_vectors_from_google_cloud_storage() {
    answers_come_before_the_vectors(ObjectStorage::gcs().unwrap(), drop).await;
}

/// What was fetched is served before it is durable; a disk that then loses power has it or not, here and there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_durable_yet_is_fetched_again_after_a_crash() {
    let storage = ObjectStorage::local().unwrap();
    let url = format!("{}/a", storage.url);
    fill(&storage, &url).await;
    let directory = tempfile::tempdir().unwrap();
    let repository = Repository::open(&url).unwrap();
    let wanted = Wanted { backup: None, until: Until::Latest, concurrency: 4, log_file_bytes: 100_000, lazily: true };
    restore(&repository, &wanted, directory.path()).await.unwrap();
    let lost: Vec<_> = files(&directory.path().join("collections"));
    let kinds =
        ["records-", ".graph", ".vectors"].map(|kind| lost.iter().any(|file| file.to_string_lossy().contains(kind)));
    assert_eq!(kinds, [true; 3]);
    for (i, file) in lost.iter().enumerate() {
        let mut bytes = std::fs::read(file).unwrap();
        match i % 3 {
            0 => bytes.clear(),
            1 => bytes.truncate(bytes.len() / 2),
            _ => bytes.iter_mut().take(4_096).for_each(|byte| *byte = 0),
        }
        std::fs::write(file, bytes).unwrap();
    }
    let served = Served::start(with_one_segment(command(directory.path()))).await.unwrap();
    check(&served, &(0..ARCHIVED).collect::<Vec<_>>(), &[]).await;
    let whole = || async { (!directory.path().join("ARRIVING").exists()).then_some(()) };
    eventually("everything is there and durable", PATIENCE, whole).await.unwrap();
    served.process.kill().unwrap();
    std::fs::remove_dir_all(storage.directory()).unwrap();
    let served = Served::start(with_one_segment(command(directory.path()))).await.unwrap();
    check(&served, &(0..ARCHIVED).collect::<Vec<_>>(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_that_comes_back_is_asked_again() {
    let storage = ObjectStorage::local().unwrap();
    let (chunks, away) = (storage.directory().join("a/chunks"), storage.directory().join("a/away"));
    let url = format!("{}/a", storage.url);
    fill(&storage, &url).await;
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(starting(&storage, &url, directory.path())).await.unwrap();
    std::fs::rename(&chunks, &away).unwrap();
    let refusal = nearest(&served, 4, true).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    std::fs::rename(&away, &chunks).unwrap();
    assert_eq!(nearest(&served, 4, true).await.unwrap(), sample(4).id);
}
