//! Backups, the archive of the log, and coming back from them: one suite, run on a directory, on S3 and on Google Cloud
//! Storage, with real processes and real servers.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use nearfield_proto::v1;
use nearfield_testkit::{ObjectStorage, eventually};

use crate::faults::{BLOCK, DIMENSION, check, insert};
use crate::process::{Served, command};

const PATIENCE: Duration = Duration::from_secs(60);

/// searchd with this storage as its archive.
pub(crate) fn archived(storage: &ObjectStorage, url: &str, directory: &Path) -> Command {
    let mut command = command(directory);
    command.envs(storage.environment.iter().map(|(name, value)| (*name, value.as_str())));
    command.env("NEARFIELD_ARCHIVE__URL", url);
    command.env("NEARFIELD_ARCHIVE__RPO", "200ms").env("NEARFIELD_ARCHIVE__BACKUP_EVERY", "0s");
    command
}

/// `searchd backup …` with the same settings; what it printed, or why it failed.
pub(crate) fn backup(
    storage: &ObjectStorage,
    url: &str,
    directory: &Path,
    arguments: &[&str],
) -> Result<String, String> {
    let mut command = archived(storage, url, directory);
    let output = command.arg("backup").args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn now() -> String {
    humantime::format_rfc3339_nanos(SystemTime::now()).to_string()
}

async fn create(served: &Served) {
    served.create("c", DIMENSION as u32).await;
}

/// A session token that is as far as everything that was acknowledged.
async fn session(served: &Served, block: u64) -> String {
    let vectors = vec![crate::faults::sample(block)];
    let request = v1::InsertRequest { collection: "c".into(), vectors };
    served.points().insert(request).await.unwrap().into_inner().session
}

/// Number `name` of the process's metrics.
pub(crate) async fn metric(served: &Served, name: &str) -> Option<f64> {
    let text = crate::process::metrics(served).await?;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

pub(crate) async fn is_archived(served: &Served) {
    let lag = || async { (metric(served, "nearfield_searchd_archive_lag_seconds").await? == 0.0).then_some(()) };
    eventually("the log is in the archive", PATIENCE, lag).await.unwrap();
}

/// Restores with these arguments, starts, and checks that exactly these blocks are there.
async fn comes_back(storage: &ObjectStorage, url: &str, arguments: &[&str], blocks: u64) {
    let directory = tempfile::tempdir().unwrap();
    let restored = backup(storage, url, directory.path(), &[&["restore"], arguments].concat());
    println!("{}: restore {arguments:?}: {restored:?}", storage.name);
    restored.unwrap();
    // Without an archive of its own, so that later restores do not find its backups.
    let served = Served::start(command(directory.path())).await.unwrap();
    check(&served, &(0..blocks).collect::<Vec<_>>(), &[]).await;
    served.process.kill().unwrap();
    let again = backup(storage, url, directory.path(), &["restore"]).unwrap_err();
    assert!(again.contains("is not empty"), "{again}");
}

async fn everything_comes_back(storage: &ObjectStorage) {
    let url = format!("{}/a", storage.url);
    let directory = tempfile::tempdir().unwrap();
    let nothing = backup(storage, &url, directory.path(), &["restore"]).unwrap_err();
    assert!(nothing.contains("no backup"), "{nothing}");
    let mut starting = archived(storage, &url, directory.path());
    // The first start of all has nothing to come back to.
    starting.env("NEARFIELD_STORAGE__RESTORE_FROM", &url);
    let served = Served::start(starting).await.unwrap();
    create(&served).await;
    for block in 0..30 {
        insert(&served, block).await.unwrap();
    }
    let server = served.process.address("grpc").unwrap();
    let ask = |arguments: &[&str]| backup(storage, &url, directory.path(), arguments);
    let first = ask(&["create", "--server", &server]).unwrap();
    for block in 30..34 {
        insert(&served, block).await.unwrap();
    }
    let moment = now();
    for block in 34..38 {
        insert(&served, block).await.unwrap();
    }
    let token = session(&served, 37).await;
    for block in 38..40 {
        insert(&served, block).await.unwrap();
    }
    let second = ask(&["create", "--server", &server]).unwrap();
    println!("{}: {first}{second}", storage.name);
    for block in 40..45 {
        insert(&served, block).await.unwrap();
    }
    is_archived(&served).await;
    served.process.kill().unwrap();

    let ids: Vec<String> = [&first, &second].iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect();
    let listed = ask(&["list"]).unwrap();
    assert!(ids.iter().all(|id| listed.contains(id)), "{listed}");
    assert!(ask(&["verify"]).unwrap().matches("as they were stored").count() == 2);
    comes_back(storage, &url, &[], 45).await;
    comes_back(storage, &url, &["--at", &moment], 34).await;
    comes_back(storage, &url, &["--session", &token], 38).await;
    comes_back(storage, &url, &["--backup", &ids[0], "--backup-only"], 30).await;
    comes_back(storage, &url, &["--backup", &ids[0]], 45).await;
    let early = ask(&["restore", "--at", "2001-01-01T00:00:00Z"]).unwrap_err();
    assert!(early.contains("is not empty"), "{early}");
    let elsewhere = tempfile::tempdir().unwrap();
    let early = backup(storage, &url, elsewhere.path(), &["restore", "--at", "2001-01-01T00:00:00Z"]).unwrap_err();
    assert!(early.contains("no backup from which 2001-01-01T00:00:00"), "{early}");

    // A new machine with nothing but the storage; then another, from what that one wrote.
    for round in 0..2 {
        let fresh = tempfile::tempdir().unwrap();
        let mut starting = archived(storage, &url, fresh.path());
        starting.env("NEARFIELD_STORAGE__RESTORE_FROM", &url).env("NEARFIELD_ARCHIVE__BACKUP_EVERY", "1h");
        let served = Served::start(starting).await.unwrap();
        check(&served, &(0..45 + round).collect::<Vec<_>>(), &[]).await;
        let backed_up =
            || async { (metric(&served, "nearfield_searchd_backup_finished_seconds").await? > 0.0).then_some(()) };
        eventually("a new instance has a backup of its own", PATIENCE, backed_up).await.unwrap();
        insert(&served, 45 + round).await.unwrap();
        is_archived(&served).await;
        served.process.kill().unwrap();
    }
    comes_back(storage, &url, &[], 47).await;
    comes_back(storage, &url, &["--at", &moment], 34).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_from_a_directory() {
    everything_comes_back(&ObjectStorage::local().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_from_s3() {
    everything_comes_back(&ObjectStorage::s3().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_from_google_cloud_storage() {
    everything_comes_back(&ObjectStorage::gcs().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_backup_sends_what_changed_and_a_damaged_one_is_never_restored() {
    let storage = ObjectStorage::local().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let served = Served::start(archived(&storage, &storage.url, directory.path())).await.unwrap();
    create(&served).await;
    for block in 0..60 {
        insert(&served, block).await.unwrap();
    }
    let server = served.process.address("grpc").unwrap();
    let make = || {
        let line = backup(&storage, &storage.url, directory.path(), &["create", "--server", &server]).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        (line.split(' ').next().unwrap().to_owned(), numbers[0], numbers[1])
    };
    let (_, bytes, sent) = make();
    assert!(sent > 0 && sent <= bytes);
    let (id, bytes, sent) = make();
    assert!(sent < bytes / 10, "{sent} of {bytes} bytes were sent again");
    served.process.kill().unwrap();

    let chunks: Vec<_> = crate::faults::files(&storage.directory().join("chunks"));
    let largest = chunks.iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap();
    let mut damaged = std::fs::read(largest).unwrap();
    damaged[100] ^= 1;
    std::fs::write(largest, damaged).unwrap();
    let name = largest.file_name().unwrap().to_str().unwrap();
    let refusal = backup(&storage, &storage.url, directory.path(), &["verify"]).unwrap_err();
    assert!(refusal.contains(name), "{refusal}");
    let elsewhere = tempfile::tempdir().unwrap();
    let refusal = backup(&storage, &storage.url, elsewhere.path(), &["restore", "--backup", &id]).unwrap_err();
    assert!(refusal.contains(name), "{refusal}");
    // Half of it is there, and nothing starts from that.
    let refusal = Served::start(command(elsewhere.path())).await.err().unwrap();
    assert!(format!("{refusal:#}").contains("was not finished"), "{refusal:#}");
    let mut whole = std::fs::read(largest).unwrap();
    whole[100] ^= 1;
    std::fs::write(largest, whole).unwrap();
    let resumed = backup(&storage, &storage.url, elsewhere.path(), &["restore", "--backup", &id]);
    resumed.unwrap();
    let served = Served::start(command(elsewhere.path())).await.unwrap();
    check(&served, &(0..60).collect::<Vec<_>>(), &[]).await;
    assert_eq!(60 * BLOCK, 3_000);
}
