//! Coming back from object storage: a backup's files, verified, and then as much of the archived log as is wanted.
//!
//! The directory must be empty. A file in it says that a restore is under way until everything is there and durable, so
//! that nothing starts from a half of it; a restore that was interrupted goes on where it was. The restored directory is
//! a new instance: it may lack what the old one had told others, so it must not go on with the old one's numbers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::manifest::{self, Backup, File};
use super::repository::{CHUNK_BYTES, Repository};
use super::{Error, archive, arriving, blocking};
use crate::engine::vector_clock::VectorClock;
use crate::index::segment::VECTORS;
use crate::index::vectors::{HEADER, Header, Vectors};
use crate::node;
use crate::wal::{Replay, Wal, sync_directory};

/// There while a restore is under way; holds the id of the backup.
const MARK: &str = "RESTORING";

/// Up to where to restore.
#[derive(Clone, Debug, PartialEq)]
pub enum Until {
    /// Everything that the archive has.
    Latest,
    /// What the backup has, without the log after it.
    Backup,
    /// Up to this record of the backup's instance, itself included.
    Record(u64),
    /// Up to the moment at which these writes were there.
    Session(VectorClock),
    /// Writes that were admitted up to then: Unix time in nanoseconds.
    Time(u64),
}

/// What to restore.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The newest that fits when none is named.
    pub backup: Option<String>,
    pub until: Until,
    /// Chunks that are fetched at the same time.
    pub concurrency: usize,
    /// Size of the log files that are written.
    pub log_file_bytes: u64,
    /// Leave the vectors where they are: searchd fetches them while it serves (see [`super::arriving`]).
    pub lazily: bool,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    pub backup: Backup,
    /// Records that came from the archive after it.
    pub records: u64,
    /// The last record that was replayed.
    pub last_record: u64,
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup => f.write_str("the backup"),
            Self::Latest => f.write_str("the latest record"),
            Self::Record(number) => write!(f, "record {number}"),
            Self::Session(_) => f.write_str("the session"),
            Self::Time(time) => write!(f, "{}", humantime::format_rfc3339_nanos(time_of(*time))),
        }
    }
}

fn time_of(unix_nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_nanoseconds)
}

/// Whether a restore into this directory was begun and not finished.
pub fn is_unfinished(directory: &Path) -> bool {
    directory.join(MARK).exists()
}

/// Whether nothing is in the directory that a restore would have to respect.
pub fn is_empty(directory: &Path) -> Result<bool, Error> {
    let failed = |source| Error::Io { doing: "listing", path: directory.into(), source };
    if !directory.exists() {
        return Ok(true);
    }
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        if entry.map_err(failed)?.file_name() != node::LOCK {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Restores into `directory`, which is locked meanwhile.
pub async fn restore(repository: &Repository, wanted: &Wanted, directory: &Path) -> Result<Restored, Error> {
    let _lock = node::lock(directory)?;
    if !is_empty(directory)? && !is_unfinished(directory) {
        return Err(Error::NotEmpty(directory.into()));
    }
    let backup = choose(repository, wanted).await?;
    mark(directory, &backup.id)?;
    remove_replayed(directory, &backup)?;
    for file in &backup.files {
        prepare(directory, file)?;
    }
    let (later, now): (Vec<&File>, Vec<&File>) =
        backup.files.iter().partition(|file| wanted.lazily && is_vectors(file));
    let whole = now.into_iter().flat_map(|file| (0..file.chunks.len()).map(move |chunk| (file, Some(chunk))));
    let jobs = later.iter().map(|file| (*file, None)).chain(whole);
    let fetching = futures::stream::iter(jobs).map(|(file, chunk)| match chunk {
        Some(chunk) => place(repository, directory, file, chunk).boxed(),
        None => lay_out(repository, directory, file).boxed(),
    });
    fetching.buffer_unordered(wanted.concurrency.max(1)).try_collect::<Vec<()>>().await?;
    if later.is_empty() {
        arriving::unmark(directory)?;
    } else {
        arriving::mark(directory, repository.url(), later.into_iter().cloned().collect())?;
    }
    settle(directory, &backup)?;
    let mut restored = Restored { last_record: backup.next_record - 1, backup, records: 0 };
    if wanted.until != Until::Backup {
        replay(repository, wanted, directory, &mut restored).await?;
    }
    unmark(directory)?;
    Ok(restored)
}

/// The newest backup that has nothing of what comes after the wanted moment.
async fn choose(repository: &Repository, wanted: &Wanted) -> Result<Backup, Error> {
    if let Some(id) = &wanted.backup {
        let backup = Backup::load(repository, id).await?;
        let fits = fits(&backup, &wanted.until);
        return if fits { Ok(backup) } else { Err(Error::Unreachable(wanted.until.to_string())) };
    }
    for id in manifest::ids(repository).await?.into_iter().rev() {
        match Backup::load(repository, &id).await {
            Ok(backup) if fits(&backup, &wanted.until) => return Ok(backup),
            Ok(_) => {}
            Err(error @ Error::Store { .. }) => return Err(error),
            Err(error) => tracing::warn!(id, error = &error as &dyn std::error::Error, "passing over this backup"),
        }
    }
    Err(Error::Unreachable(wanted.until.to_string()))
}

fn fits(backup: &Backup, until: &Until) -> bool {
    match until {
        Until::Backup | Until::Latest => true,
        Until::Record(number) => backup.next_record <= number.saturating_add(1),
        Until::Session(session) => {
            let applied = backup.applied();
            session.iter().all(|(origin, sequence)| applied.get(origin) <= sequence)
        }
        Until::Time(time) => backup.latest <= *time,
    }
}

fn mark(directory: &Path, id: &str) -> Result<(), Error> {
    let path = directory.join(MARK);
    let write = || {
        std::fs::write(&path, id)?;
        std::fs::File::open(&path)?.sync_all()?;
        sync_directory(directory)
    };
    write().map_err(|source| Error::Io { doing: "writing", path: path.clone(), source })
}

fn unmark(directory: &Path) -> Result<(), Error> {
    let path = directory.join(MARK);
    let remove = || std::fs::remove_file(&path).and_then(|()| sync_directory(directory));
    remove().map_err(|source| Error::Io { doing: "removing", path: path.clone(), source })
}

/// Makes the file in its full size, so that a disk that is too small is found at once.
fn prepare(directory: &Path, file: &File) -> Result<(), Error> {
    let path = directory.join(&file.path);
    let make = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let made = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        if made.metadata()?.len() > file.bytes {
            made.set_len(file.bytes)?;
        }
        made.sync_all()
    };
    make().map_err(|source| Error::Io { doing: "making", path: path.clone(), source })
}

fn is_vectors(file: &File) -> bool {
    file.path.ends_with(VECTORS)
}

/// Makes a file of vectors in its full length, and fetches its header and tables: what it takes to open it.
async fn lay_out(repository: &Repository, directory: &Path, file: &File) -> Result<(), Error> {
    let path = directory.join(&file.path);
    let damaged = || Error::Damaged(file.path.clone());
    let header = repository.range(file, 0..(HEADER as u64).min(file.bytes)).await?;
    let tables = Header::read(&header).and_then(|header| header.tables(file.bytes)).ok_or_else(damaged)?;
    let mut parts = vec![(0, header)];
    let mut start = tables.start;
    while start < tables.end {
        let end = ((start / CHUNK_BYTES as u64 + 1) * CHUNK_BYTES as u64).min(tables.end);
        parts.push((start, repository.range(file, start..end).await?));
        start = end;
    }
    let (made, bytes) = (path.clone(), file.bytes);
    let make = move || {
        std::fs::OpenOptions::new().write(true).open(&made)?.set_len(bytes)?;
        Ok(made)
    };
    let made = blocking(make).await?.map_err(|source| Error::Io { doing: "making", path: path.clone(), source })?;
    blocking(move || parts.iter().try_for_each(|(offset, bytes)| write(&made, *offset, bytes))).await??;
    // Both have checksums.
    blocking(move || Vectors::open(&path)).await?.map(drop).map_err(|_| damaged())
}

/// Fetches one chunk to its place, unless it is there.
async fn place(repository: &Repository, directory: &Path, file: &File, chunk: usize) -> Result<(), Error> {
    let (path, name) = (directory.join(&file.path), file.chunks[chunk].clone());
    let offset = (chunk * CHUNK_BYTES) as u64;
    let length = (file.bytes - offset).min(CHUNK_BYTES as u64);
    let (there, expected) = (path.clone(), name.clone());
    if blocking(move || has(&there, offset, length, &expected)).await? {
        return Ok(());
    }
    let bytes = repository.chunk(&name).await?;
    if bytes.len() as u64 != length {
        return Err(Error::Damaged(file.path.clone()));
    }
    blocking(move || write(&path, offset, &bytes)).await?
}

fn has(path: &Path, offset: u64, length: u64, name: &str) -> bool {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; length as usize];
    let read = std::fs::File::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset));
    read.is_ok() && blake3::hash(&bytes).to_hex().as_str() == name
}

fn write(path: &PathBuf, offset: u64, bytes: &Bytes) -> Result<(), Error> {
    use std::os::unix::fs::FileExt;
    let write = || {
        let file = std::fs::OpenOptions::new().write(true).open(path)?;
        file.write_all_at(bytes, offset)?;
        file.sync_data()
    };
    write().map_err(|source| Error::Io { doing: "writing", path: path.clone(), source })
}

/// Makes the names of all files durable.
fn settle(directory: &Path, backup: &Backup) -> Result<(), Error> {
    let mut directories: Vec<PathBuf> = vec![directory.into()];
    for file in &backup.files {
        let path = directory.join(&file.path);
        directories
            .extend(path.ancestors().skip(1).take_while(|above| above.starts_with(directory)).map(PathBuf::from));
    }
    directories.sort();
    directories.dedup();
    for directory in directories.iter().rev() {
        let failed = |source| Error::Io { doing: "syncing", path: directory.clone(), source };
        sync_directory(directory).map_err(failed)?;
    }
    Ok(())
}

/// Appends archived records to the restored log, up to the wanted one.
async fn replay(
    repository: &Repository,
    wanted: &Wanted,
    directory: &Path,
    restored: &mut Restored,
) -> Result<(), Error> {
    let backup = &restored.backup;
    let (logs, rotate_at, from) = (directory.join("wal"), wanted.log_file_bytes, backup.from_record);
    let mut wal = blocking(move || Wal::open::<crate::wal::Error>(&logs, rotate_at, from, |_| Ok(()))).await??;
    let mut reaching = Reaching { until: &wanted.until, node: &backup.node, applied: backup.applied(), done: false };
    let mut next = backup.next_record;
    for piece in archive::of_node(repository, &backup.node).await? {
        if piece.last < next {
            continue;
        }
        if reaching.done || piece.first > next {
            break;
        }
        let mut entries = Vec::new();
        for record in archive::fetch(repository, &piece).await?.into_iter().filter(|record| record.number >= next) {
            match reaching.judge(&record) {
                Verdict::End => break,
                Verdict::LeaveOut => {}
                Verdict::Take => {
                    restored.last_record = record.number;
                    entries.push(record.entry);
                }
            }
        }
        next = piece.last + 1;
        restored.records += entries.len() as u64;
        wal = blocking(move || wal.append(entries.iter()).map(|()| wal)).await??;
    }
    if reaching.is_satisfied(restored.last_record) {
        Ok(())
    } else {
        Err(Error::LogEnds { wanted: wanted.until.to_string(), last: next - 1 })
    }
}

enum Verdict {
    /// This record and everything after it is too late.
    End,
    /// A peer's record that is too late; this instance's own that follow may not be.
    LeaveOut,
    Take,
}

/// How near to the wanted moment the replay is.
struct Reaching<'a> {
    until: &'a Until,
    /// The instance whose log it is.
    node: &'a str,
    applied: VectorClock,
    done: bool,
}

impl Reaching<'_> {
    fn judge(&mut self, record: &Replay) -> Verdict {
        let entry = &record.entry;
        let verdict = match self.until {
            Until::Latest => Verdict::Take,
            Until::Backup => Verdict::End,
            Until::Record(number) if record.number > *number => Verdict::End,
            Until::Session(session) if self.applied.covers(session) => Verdict::End,
            Until::Time(time) if entry.stamp.as_ref().is_some_and(|stamp| stamp.physical > *time) => {
                // Its own stamps only grow.
                let is_own = format!("{:016x}", entry.origin) == self.node && entry.sequence > 0;
                if is_own { Verdict::End } else { Verdict::LeaveOut }
            }
            Until::Record(_) | Until::Session(_) | Until::Time(_) => Verdict::Take,
        };
        match verdict {
            Verdict::End => self.done = true,
            Verdict::Take => self.applied.raise(entry.origin, entry.sequence),
            Verdict::LeaveOut => {}
        }
        verdict
    }

    /// Whether the end of the archived log is where the replay was to end.
    fn is_satisfied(&self, last_record: u64) -> bool {
        match self.until {
            // Nothing tells how much more there was.
            Until::Backup | Until::Latest | Until::Time(_) => true,
            Until::Record(number) => last_record >= *number,
            Until::Session(session) => self.applied.covers(session),
        }
    }
}

/// Removes log files that an interrupted restore replayed.
fn remove_replayed(directory: &Path, backup: &Backup) -> Result<(), Error> {
    let logs = directory.join("wal");
    if !logs.exists() {
        return Ok(());
    }
    let failed = |source| Error::Io { doing: "listing", path: logs.clone(), source };
    for entry in std::fs::read_dir(&logs).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_named = backup.files.iter().any(|file| directory.join(&file.path) == path);
        if !is_named {
            std::fs::remove_file(&path).map_err(|source| Error::Io { doing: "removing", path, source })?;
        }
    }
    Ok(())
}
