//! Faults of disks: full ones, ones that fail to sync, and ones that flip bits. A real process meets each; it may refuse
//! a write or a start, but what it acknowledged is there, and what it answers is right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nearfield_proto::v1;
use nearfield_testkit::eventually;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tonic::Code;

use crate::process::{Served, command, number};
use crate::running::point;

const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const DIMENSION: usize = 64;
/// Points of one insert.
pub(crate) const BLOCK: u64 = 50;

/// A disk with little room: a small tmpfs where mounting is allowed, else a limit on the size of files.
struct SmallDisk {
    directory: tempfile::TempDir,
    is_mounted: bool,
}

impl SmallDisk {
    fn new(mib: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "nearfield-test"]).arg(directory.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        println!("a small disk by {}", if is_mounted { "tmpfs" } else { "RLIMIT_FSIZE" });
        Self { directory, is_mounted }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = command(self.path());
        if !self.is_mounted {
            // One log file that grows into the limit.
            command.env("NEARFIELD_STORAGE__LOG_FILE_BYTES", "100000000");
            let limit = libc::rlimit { rlim_cur: FILE_LIMIT, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: both calls are async-signal-safe and touch no memory but `limit`, which the closure owns.
            unsafe {
                command.pre_exec(move || {
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 {
                        Ok(())
                    } else {
                        Err(std::io::Error::last_os_error())
                    }
                });
            }
        }
        command
    }

    /// Makes room for a running searchd.
    fn grow(&self, served: &Served, mib: u32) {
        if self.is_mounted {
            let size = format!("remount,size={mib}m");
            assert!(Command::new("mount").args(["-o", &size]).arg(self.path()).status().unwrap().success());
        } else {
            let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: `limit` outlives the call; no old limit is asked for.
            let done =
                unsafe { libc::prlimit(served.process.pid() as i32, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
            assert_eq!(done, 0);
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: a process that is being killed may have it open.
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        }
    }
}

const FILE_LIMIT: u64 = 1_000_000;

/// The values of a point, different for each.
fn values(number: u64) -> Vec<f32> {
    let mut random = SmallRng::seed_from_u64(number);
    (0..DIMENSION).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn id(number: u64) -> String {
    format!("p{number:07}")
}

/// The first point of a block.
pub(crate) fn sample(block: u64) -> v1::Point {
    let number = block * BLOCK;
    point(&id(number), &values(number), &format!("{{\"n\":{number}}}"))
}

/// Inserts block number `block`.
pub(crate) async fn insert(served: &Served, block: u64) -> Result<(), tonic::Status> {
    let numbers = block * BLOCK..(block + 1) * BLOCK;
    let vectors = numbers.map(|i| point(&id(i), &values(i), &format!("{{\"n\":{i}}}"))).collect();
    served.points().insert(v1::InsertRequest { collection: "c".into(), vectors }).await.map(drop)
}

/// Everything of the acknowledged blocks is there, by id and by search; other points may be when `refused` were asked for.
pub(crate) async fn check(served: &Served, acknowledged: &[u64], refused: &[u64]) {
    let mut expected = 0;
    for block in acknowledged {
        let numbers: Vec<u64> = (block * BLOCK..(block + 1) * BLOCK).collect();
        let records = served.fetch("c", numbers.iter().map(|i| id(*i)).collect()).await;
        let found: BTreeMap<String, Vec<f32>> = records.into_iter().map(|record| (record.id, record.values)).collect();
        for i in &numbers {
            assert_eq!(found.get(&id(*i)), Some(&values(*i)), "{}", id(*i));
        }
        expected += BLOCK;
        let query = values(numbers[0]);
        for exact in [false, true] {
            let request =
                v1::SearchRequest { collection: "c".into(), query: query.clone(), k: 1, exact, ..Default::default() };
            let hits = served.points().search(request).await.unwrap().into_inner().results;
            assert_eq!(hits[0].vector_id, id(numbers[0]));
        }
    }
    let request = v1::DescribeCollectionRequest { name: "c".into(), ..Default::default() };
    let count = served.collections().describe(request).await.unwrap().into_inner().count;
    assert!(count >= expected && count <= expected + refused.len() as u64 * BLOCK, "{count}, expected {expected}");
}

/// Inserts blocks until one is refused; returns the refusal.
async fn fill(served: &Served, next: &mut u64, acknowledged: &mut Vec<u64>) -> tonic::Status {
    for _ in 0..20_000 {
        let block = *next;
        *next += 1;
        match insert(served, block).await {
            Ok(()) => acknowledged.push(block),
            Err(refusal) => return refusal,
        }
    }
    panic!("the disk never became full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_loses_nothing_and_recovers_by_itself() {
    let disk = SmallDisk::new(8);
    let start = || {
        let mut command = disk.command();
        command.env("NEARFIELD_STORAGE__RESERVE_BYTES", "0").env("NEARFIELD_LOG__LEVEL", "off");
        Served::start(command)
    };
    let served = start().await.unwrap();
    served.create("c", DIMENSION as u32).await;
    let (mut next, mut acknowledged) = (0, Vec::new());
    let refusal = fill(&served, &mut next, &mut acknowledged).await;
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
    assert!(refusal.message().contains("the disk is full"), "{refusal:?}");
    check(&served, &acknowledged, &[]).await;
    // Killed while writers run against the wall, and started where there is no room to start in.
    for _ in 0..3 {
        let (before, after) = (next, next + 20);
        next = after;
        let writing: Vec<_> = (before..after).map(|block| insert(&served, block)).collect();
        let outcomes = futures::future::join_all(writing).await;
        acknowledged
            .extend((before..after).zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()).map(|(block, _)| block));
        served_killed(&served);
        let again = start().await.unwrap();
        check(&again, &acknowledged, &[]).await;
        drop(again);
    }
    let served = start().await.unwrap();
    while fill(&served, &mut next, &mut acknowledged).await.code() != Code::ResourceExhausted {}
    disk.grow(&served, 64);
    let room = || async { insert(&served, next).await.ok() };
    eventually("writes are taken again", PATIENCE, room).await.unwrap();
    acknowledged.push(next);
    check(&served, &acknowledged, &[]).await;
    served_killed(&served);
    let served = start().await.unwrap();
    check(&served, &acknowledged, &[]).await;
}

fn served_killed(served: &Served) {
    served.process.kill().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_disk_takes_deletes_and_writes_again_after_them() {
    let disk = SmallDisk::new(16);
    if !disk.is_mounted {
        println!("without a mount the free room of a disk cannot be set: the reserve is tested by its unit test alone");
        return;
    }
    let mut command = disk.command();
    command.env("NEARFIELD_STORAGE__RESERVE_BYTES", (8 << 20).to_string());
    let served = Served::start(command).await.unwrap();
    served.create("c", DIMENSION as u32).await;
    let (mut next, mut acknowledged) = (0, Vec::new());
    let refusal = fill(&served, &mut next, &mut acknowledged).await;
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
    assert!(refusal.message().contains("nearly full"), "{refusal:?}");
    check(&served, &acknowledged, &[]).await;
    let request = v1::DeleteCollectionRequest { name: "c".into() };
    served.collections().delete(request).await.unwrap();
    let again = || async {
        let settings = v1::CollectionSettings { dimension: DIMENSION as u32, ..Default::default() };
        let request = v1::CreateCollectionRequest { name: "d".into(), settings: Some(settings) };
        served.collections().create(request).await.ok()
    };
    eventually("writes are taken again", PATIENCE, again).await.unwrap();
}

/// Builds the library that makes syncing fail.
fn sync_fault(directory: &Path) -> PathBuf {
    let library = directory.join("sync.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/faults/sync.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").output();
    let compiled = compiled.expect("a C compiler, as building needs one anyway");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_never_taken_for_durable() {
    let directory = tempfile::tempdir().unwrap();
    let library = sync_fault(directory.path());
    let (data, fault) = (directory.path().join("data"), directory.path().join("fault"));
    let start = || {
        let mut command = command(&data);
        command.env("LD_PRELOAD", &library).env("NEARFIELD_SYNC_FAULT", &fault).env("NEARFIELD_LOG__LEVEL", "off");
        Served::start(command)
    };
    let mut served = start().await.unwrap();
    served.create("c", DIMENSION as u32).await;
    let (mut next, mut acknowledged, mut refused) = (0, Vec::new(), Vec::new());
    for round in 0..6 {
        for _ in 0..5 {
            insert(&served, next).await.unwrap();
            acknowledged.push(next);
            next += 1;
        }
        std::fs::write(&fault, "").unwrap();
        let error = insert(&served, next).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        refused.push(next);
        next += 1;
        // Reads go on, and show nothing of what was refused.
        check(&served, &acknowledged, &[]).await;
        if round % 2 == 0 {
            served.process.kill().unwrap();
            let error = start().await.err().expect("a log that cannot be synced is not gone on with");
            assert!(format!("{error:#}").contains("before it was ready"), "{error:#}");
        }
        std::fs::remove_file(&fault).unwrap();
        if round % 2 == 0 {
            served = start().await.unwrap();
        }
        check(&served, &acknowledged, &refused).await;
    }
}

/// Every file of a data directory, the lock left out.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        // One that is written under another name first may have got its own meanwhile.
        } else if std::fs::metadata(&path).is_ok_and(|found| found.len() > 0) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_refused_or_does_not_matter() {
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = command(directory.path());
        command.env("NEARFIELD_LOG__LEVEL", "error").env("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "300000");
        Served::start(command)
    };
    let seed = number("NEARFIELD_SEED").unwrap_or_else(rand::random);
    println!("NEARFIELD_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let served = start().await.unwrap();
    served.create("c", DIMENSION as u32).await;
    let acknowledged: Vec<u64> = (0..45).collect();
    let (before, after) = acknowledged.split_at(40);
    for block in before {
        insert(&served, *block).await.unwrap();
    }
    let is_sealed = || async {
        let names: String = files(directory.path()).iter().map(|file| file.to_string_lossy().into_owned()).collect();
        (names.contains("MANIFEST") && names.contains("segment-")).then_some(())
    };
    eventually("a checkpoint and a segment", PATIENCE, is_sealed).await.unwrap();
    for block in after {
        insert(&served, *block).await.unwrap();
    }
    served.process.kill().unwrap();
    for _ in 0..number("NEARFIELD_KILLS").unwrap_or(12) * 3 {
        // A log that a checkpoint covers is not read: the last two files of it are enough.
        let (mut logs, mut all): (Vec<_>, Vec<_>) =
            files(directory.path()).into_iter().partition(|file| file.to_string_lossy().contains("wal-"));
        all.extend(logs.split_off(logs.len().saturating_sub(2)));
        let file = &all[random.random_range(0..all.len())];
        let whole = std::fs::read(file).unwrap();
        let mut damaged = whole.clone();
        let what = if random.random_ratio(3, 4) || file.to_string_lossy().contains("wal-") {
            let bit = random.random_range(0..whole.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            format!("bit {bit} of {}", file.display())
        } else {
            damaged.truncate(random.random_range(0..whole.len()));
            format!("{} cut to {}", file.display(), damaged.len())
        };
        std::fs::write(file, &damaged).unwrap();
        match start().await {
            // A file that the start does not read, such as a log that a checkpoint covers.
            Ok(served) => {
                println!("started with {what}");
                check(&served, &acknowledged, &[]).await;
                served.process.kill().unwrap();
            }
            Err(refusal) => {
                let words = format!("{refusal:#}");
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                assert!(words.contains(&name) && !words.contains("panicked"), "{what}: {words}");
            }
        }
        if file.exists() {
            std::fs::write(file, &whole).unwrap();
        }
    }
    check(&start().await.unwrap(), &acknowledged, &[]).await;
}
