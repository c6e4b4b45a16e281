//! Reading the log: at the start, to come back to where the process was; later, for peers that tail it.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nearfield_proto::log::v1::Entry;
use parking_lot::RwLock;

use super::{Error, flaw, record};

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

/// Reads one file; calls `each` for records from `from` on. Only the last file may end in a torn record; any other ends
/// where the file that `follows` begins.
pub(super) fn replay<E: From<Error>>(
    directory: &Path,
    first: u64,
    follows: Option<u64>,
    from: u64,
    each: &mut impl FnMut(Replay) -> Result<(), E>,
) -> Result<End, E> {
    let file = path(directory, first);
    let bytes = std::fs::read(&file).map_err(|source| Error::Io { doing: "reading", file: file.clone(), source })?;
    let (mut next, mut at) = (first, 0);
    while at < bytes.len() && follows != Some(next) {
        let rest = &bytes[at..];
        let Some(record) = record::decode(rest).filter(|record| record.number == next) else {
            let torn = follows.is_none() && !record::proves_durable(rest, next) && !flaw::is_one_bit(rest, next);
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
    /// As in the [`super::Wal`].
    files: Arc<RwLock<Vec<u64>>>,
    durable: Arc<AtomicU64>,
}

impl Reader {
    pub(super) fn new(directory: PathBuf, files: Arc<RwLock<Vec<u64>>>, durable: Arc<AtomicU64>) -> Self {
        Self { directory, files, durable }
    }

    /// The number of the last durable record.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// The number of the oldest record that is still there.
    pub fn oldest(&self) -> u64 {
        self.files.read().first().copied().unwrap_or(1)
    }

    /// Where record `from` is, or the start of the file that has it; `None` when the log no longer reaches back to it.
    pub fn position(&self, from: u64) -> Option<Position> {
        let first = self.files.read().iter().copied().rfind(|first| *first <= from);
        first.map(|first| Position { file: first, offset: 0, next: first })
    }

    /// Calls `each` with durable records from the position on until it says to stop by `false`, and moves the position
    /// past them. Returns false when the log no longer has them. Reads a limited piece: call again until
    /// [`Position::next`] is past [`Reader::durable`].
    pub fn read(&self, position: &mut Position, mut each: impl FnMut(Replay) -> bool) -> Result<bool, Error> {
        let durable = self.durable();
        if position.next > durable {
            return Ok(true);
        }
        if position.file != position.next && self.files.read().binary_search(&position.next).is_ok() {
            // The file was full, or what follows in it does not count.
            (position.file, position.offset) = (position.next, 0);
        }
        // Whatever this file has from there on does not count.
        let follows = self.files.read().iter().copied().find(|first| *first > position.file);
        let path = path(&self.directory, position.file);
        let damaged =
            |position: &Position| Error::Damaged { file: path.clone(), offset: position.offset, number: position.next };
        let piece = match read_piece(&path, position.offset) {
            Ok(piece) => piece,
            // A checkpoint removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(Error::Io { doing: "reading", file: path, source }),
        };
        let mut at = 0;
        while position.next <= durable && follows != Some(position.next) {
            let Some(record) = record::decode(&piece[at..]).filter(|record| record.number == position.next) else {
                if at == 0 {
                    return Err(damaged(position));
                }
                break;
            };
            at += record.bytes;
            position.offset += record.bytes as u64;
            position.next += 1;
            if !each(Replay { number: record.number, entry: record.entry, bytes: record.bytes as u64 }) {
                break;
            }
        }
        Ok(true)
    }
}

/// A place between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The first record of the file.
    file: u64,
    offset: u64,
    next: u64,
}

impl Position {
    /// The number of the record that is read next.
    pub fn next(&self) -> u64 {
        self.next
    }
}

/// Some of a file's bytes: at least one whole record where there is one.
fn read_piece(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let left = file.metadata()?.len().saturating_sub(offset) as usize;
    let mut piece = vec![0; left.min(PIECE)];
    file.read_exact_at(&mut piece, offset)?;
    if let Some(length) = record::length(&piece).filter(|length| *length > piece.len() && *length <= left) {
        piece.resize(length, 0);
        file.read_exact_at(&mut piece, offset)?;
    }
    Ok(piece)
}

/// Bytes read at once.
const PIECE: usize = 2 * 1024 * 1024;
