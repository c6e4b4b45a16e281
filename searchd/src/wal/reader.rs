//! Reading the log: at the start, to come back to where the process was; later, for peers that tail it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nearfield_proto::log::v1::Entry;

use super::{Error, record};

/// One entry of the log and its number there.
#[derive(Debug, PartialEq)]
pub struct Replay {
    pub number: u64,
    pub entry: Entry,
    /// Of its record.
    pub bytes: u64,
}

/// Where a file's records end.
pub(super) struct End {
    pub next: u64,
    pub length: u64,
}

pub(super) fn path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("wal-{first:020}.log"))
}

/// First record of each file, ascending.
pub(super) fn list(directory: &Path) -> Result<Vec<u64>, Error> {
    let read = || {
        fs_err::create_dir_all(directory)?;
        let mut files = Vec::new();
        for entry in fs_err::read_dir(directory)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("wal-")?.strip_suffix(".log"));
            files.extend(number.and_then(|digits| digits.parse::<u64>().ok()));
        }
        files.sort_unstable();
        Ok(files)
    };
    read().map_err(|source| Error::Io { doing: "listing", file: directory.into(), source })
}

/// Reads one file; calls `each` for records from `from` on. Only the last file may end in a torn record.
pub(super) fn replay<E: From<Error>>(
    directory: &Path,
    first: u64,
    is_last: bool,
    from: u64,
    each: &mut impl FnMut(Replay) -> Result<(), E>,
) -> Result<End, E> {
    let file = path(directory, first);
    let bytes = std::fs::read(&file).map_err(|source| Error::Io { doing: "reading", file: file.clone(), source })?;
    let (mut next, mut at) = (first, 0);
    while at < bytes.len() {
        let Some(record) = record::decode(&bytes[at..]).filter(|record| record.number == next) else {
            let torn = is_last && !record::proves_durable(&bytes[at..], next);
            if !torn {
                return Err(Error::Damaged { file, offset: at as u64, number: next }.into());
            }
            let cut = bytes.len() - at;
            tracing::warn!(file = %file.display(), bytes = cut, "cut a torn tail: its batch was never acknowledged");
            break;
        };
        if next >= from {
            each(Replay { number: next, entry: record.entry, bytes: record.bytes as u64 })?;
        }
        at += record.bytes;
        next += 1;
    }
    Ok(End { next, length: at as u64 })
}

/// Reads durable records while the log is being written.
#[derive(Clone)]
pub struct Reader {
    directory: PathBuf,
    durable: Arc<AtomicU64>,
}

impl Reader {
    pub(super) fn new(directory: PathBuf, durable: Arc<AtomicU64>) -> Self {
        Self { directory, durable }
    }

    /// The number of the last durable record.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// The number of the oldest record that is still there.
    pub fn oldest(&self) -> Result<u64, Error> {
        Ok(list(&self.directory)?.first().copied().unwrap_or(1))
    }

    /// Calls `each` with durable records from `from` on, of one file at most, until it says to stop by `false`. Returns
    /// the number of the next record to ask for, or `None` when the log no longer has `from`.
    pub fn read(&self, from: u64, mut each: impl FnMut(Replay) -> bool) -> Result<Option<u64>, Error> {
        let durable = self.durable();
        if from > durable {
            return Ok(Some(from));
        }
        let files = list(&self.directory)?;
        let Some(first) = files.iter().copied().rfind(|first| *first <= from) else { return Ok(None) };
        let file = path(&self.directory, first);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            // A checkpoint removed it between the two calls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { doing: "reading", file, source }),
        };
        let (mut next, mut at) = (first, 0);
        while next <= durable && at < bytes.len() {
            let Some(record) = record::decode(&bytes[at..]).filter(|record| record.number == next) else {
                return Err(Error::Damaged { file, offset: at as u64, number: next });
            };
            at += record.bytes;
            next += 1;
            let replay = Replay { number: record.number, entry: record.entry, bytes: record.bytes as u64 };
            if replay.number >= from && !each(replay) {
                break;
            }
        }
        Ok(Some(next))
    }
}
