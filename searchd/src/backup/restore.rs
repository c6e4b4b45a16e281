//! Coming back from object storage: a backup's files, verified, and then as much of the archived log as is wanted.
//!
//! The directory must be empty. A file in it says that a restore is under way until everything is there and durable, so
//! that nothing starts from a half of it; a restore that was interrupted goes on where it was. The restored directory is
//! a new instance: it may lack what the old one had told others, so it must not go on with the old one's numbers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures::{FutureExt, StreamExt, TryStreamExt};

use super::manifest::{self, Backup, File};
use super::placing::{Durability, Placing};
use super::repository::Repository;
use super::{Error, archive, arriving, blocking};
use crate::checkpoint::COLLECTIONS;
use crate::engine::vector_clock::VectorClock;
use crate::index::segment::VECTORS;
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
    let is_resumed = is_unfinished(directory);
    let backup = choose(repository, wanted).await?;
    mark(directory, &backup.id)?;
    remove_replayed(directory, &backup)?;
    let placing = Placing { repository, directory, is_resumed };
    for file in &backup.files {
        placing.prepare(file)?;
    }
    let (later, now): (Vec<&File>, Vec<&File>) =
        backup.files.iter().partition(|file| wanted.lazily && is_vectors(file));
    let durability = |file| if wanted.lazily && is_sealed(file) { Durability::Later } else { Durability::Now };
    let whole = now.iter().flat_map(|file| (0..file.chunks.len()).map(move |chunk| (*file, Some(chunk))));
    // The longest first: all else fits in beside them.
    let jobs = whole.chain(later.iter().map(|file| (*file, None)));
    let fetching = futures::stream::iter(jobs).map(|(file, chunk)| match chunk {
        Some(chunk) => placing.place(file, chunk, durability(file)).boxed(),
        None => placing.lay_out(file).boxed(),
    });
    fetching.buffer_unordered(wanted.concurrency.max(1)).try_collect::<Vec<()>>().await?;
    let unsynced: Vec<File> =
        now.into_iter().filter(|file| matches!(durability(file), Durability::Later)).cloned().collect();
    let holed: Vec<File> = later.into_iter().cloned().collect();
    if holed.is_empty() && unsynced.is_empty() {
        arriving::unmark(directory)?;
    } else {
        arriving::Mark { url: repository.url().to_owned(), files: holed, unsynced }.write(directory)?;
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

/// What is written once under its name, and whose names are in the manifest: it may become durable later than that.
fn is_sealed(file: &File) -> bool {
    Path::new(&file.path).starts_with(COLLECTIONS)
}

fn is_vectors(file: &File) -> bool {
    file.path.ends_with(VECTORS)
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
