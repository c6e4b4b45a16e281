//! The write-ahead log: what was acknowledged is in here, on the disk, before anyone saw it.
//!
//! Files are called `wal-<number of the first record>.log` and rotate by size. Each batch is written at once and
//! synced once. On opening, a torn tail of the last file (a batch that was never acknowledged) is cut; damage anywhere
//! else is an error that names the file and the place, for nothing good comes of guessing.
//!
//! A sync that failed is never asked for again: the kernel may have dropped the pages and call the next one a success
//! (Rebello et al., "Can applications recover from fsync failures?", 2020). The file is left as it is known to be
//! durable, and the next batch begins a new one. So whatever is in a file at or past the first record of the file after
//! it was never acknowledged, and is passed over.

pub mod piece;

mod flaw;
mod reader;
mod record;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nearfield_proto::log::v1::Entry;
use parking_lot::RwLock;

pub use reader::{Position, Reader, Replay};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} the log file {}", .file.display())]
    Io { doing: &'static str, file: PathBuf, source: io::Error },
    #[error(
        "the log file {} is damaged at byte {offset}, where record {number} should be; restore it from a backup or a peer",
        .file.display()
    )]
    Damaged { file: PathBuf, offset: u64, number: u64 },
    #[error("the log lacks the records from {wanted} on: its first file is {}", .file.display())]
    Gap { wanted: u64, file: PathBuf },
}

/// Why a batch is not in the log. Nothing of it counts; the next one may succeed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the disk is full")]
    DiskFull(#[source] io::Error),
    #[error("writing the log")]
    Io(#[source] io::Error),
}

impl From<io::Error> for AppendError {
    fn from(error: io::Error) -> Self {
        let quota = matches!(error.raw_os_error(), Some(libc::EDQUOT | libc::EFBIG));
        if error.kind() == io::ErrorKind::StorageFull || quota { Self::DiskFull(error) } else { Self::Io(error) }
    }
}

/// The writing end. There is one, owned by the committer.
pub struct Wal {
    directory: PathBuf,
    file: File,
    /// The first record of each file, ascending; the last one is written to.
    files: Arc<RwLock<Vec<u64>>>,
    length: u64,
    next: u64,
    rotate_at: u64,
    buffer: Vec<u8>,
    last_batch_bytes: u64,
    /// What the file holds past `length` is unknown after a failure: the next batch goes to a new one.
    suspect: bool,
    durable: Arc<AtomicU64>,
}

impl Wal {
    /// Opens the log and calls `replay` with each entry from record `from` on, in order.
    pub fn open<E: From<Error>>(
        directory: &Path,
        rotate_at: u64,
        from: u64,
        mut replay: impl FnMut(Replay) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut files = reader::list(directory)?;
        if let Some(first) = files.first().copied().filter(|first| *first > from) {
            return Err(Error::Gap { wanted: from, file: reader::path(directory, first) }.into());
        }
        let mut end = reader::End { next: from, length: 0 };
        let needed = files.partition_point(|first| *first <= from).saturating_sub(1);
        for (i, first) in files.iter().enumerate().skip(needed) {
            if *first > end.next {
                return Err(Error::Gap { wanted: end.next, file: reader::path(directory, *first) }.into());
            }
            end = reader::replay(directory, *first, files.get(i + 1).copied(), from, &mut replay)?;
        }
        let next = end.next.max(from);
        // A checkpoint may be ahead of a log that lost its files on purpose; a fresh file starts where it ends.
        if files.is_empty() || end.next < from {
            files.push(next);
            end.length = 0;
        }
        let first = *files.last().expect("there is one now");
        let (file, length) = open_for_append(directory, first, end.length)?;
        let durable = Arc::new(AtomicU64::new(next - 1));
        Ok(Self {
            directory: directory.into(),
            file,
            files: Arc::new(RwLock::new(files)),
            length,
            next,
            rotate_at,
            buffer: Vec::new(),
            last_batch_bytes: 0,
            suspect: false,
            durable,
        })
    }

    /// The number that the next record gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Reads what is durable, from other threads.
    pub fn reader(&self) -> Reader {
        Reader::new(self.directory.clone(), self.files.clone(), self.durable.clone())
    }

    /// Writes and syncs a batch. On an error nothing of it counts, and the next batch tries anew.
    pub fn append<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) -> Result<(), AppendError> {
        if self.suspect || self.length >= self.rotate_at {
            self.rotate()?;
        }
        self.buffer.clear();
        let mut next = self.next;
        for entry in entries {
            record::encode(next, self.next - 1, entry, &mut self.buffer);
            next += 1;
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.length) {
            // What was written of it is cut off; the sync tells whether that is certain.
            let cut = self.file.set_len(self.length).and_then(|()| self.file.sync_data());
            self.suspect = cut.is_err();
            return Err(error.into());
        }
        if let Err(error) = self.file.sync_data() {
            self.suspect = true;
            // Not to be relied on, but a start before the next batch is then spared records that nobody was promised.
            let _ = self.file.set_len(self.length);
            return Err(error.into());
        }
        self.last_batch_bytes = self.buffer.len() as u64;
        self.length += self.last_batch_bytes;
        self.next = next;
        self.durable.store(next - 1, Ordering::Release);
        if self.buffer.capacity() > KEPT_BUFFER {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Removes files that hold nothing from record `from` on, as long as at least `kept_bytes` of log are left.
    pub fn forget_before(&mut self, from: u64, kept_bytes: u64) -> io::Result<()> {
        loop {
            let files = self.files.read().clone();
            if files.len() < 2 || files[1] > from {
                return Ok(());
            }
            let later = files[1..].iter().map(|first| fs_err::metadata(reader::path(&self.directory, *first)));
            let left: u64 = later.map(|file| file.map_or(0, |file| file.len())).sum();
            if left < kept_bytes {
                return Ok(());
            }
            fs_err::remove_file(reader::path(&self.directory, files[0]))?;
            self.files.write().remove(0);
        }
    }

    /// Bytes that the last successful [`Wal::append`] wrote.
    pub fn last_batch_bytes(&self) -> u64 {
        self.last_batch_bytes
    }

    /// Bytes of the file that is being written.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = reader::path(&self.directory, self.next);
        if self.files.read().last() == Some(&self.next) {
            // The suspect file has no record that counts. Another inode has none of its pages.
            std::fs::remove_file(&path)?;
        }
        let created = create(&self.directory, &path);
        if created.is_err() {
            // It must not be there when a start looks for the end of the log, should its name have become durable.
            let _ = std::fs::remove_file(&path);
        }
        self.file = created?;
        (self.length, self.suspect) = (0, false);
        let mut files = self.files.write();
        if files.last() != Some(&self.next) {
            files.push(self.next);
        }
        Ok(())
    }
}

/// A new, empty file whose name is durable.
fn create(directory: &Path, path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
    file.sync_all()?;
    sync_directory(directory)?;
    Ok(file)
}

/// Opens or creates a file and cuts it to `length`; its name is durable afterwards.
fn open_for_append(directory: &Path, first: u64, length: u64) -> Result<(File, u64), Error> {
    let path = reader::path(directory, first);
    let open = || {
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
        if file.metadata()?.len() > length {
            file.set_len(length)?;
        }
        file.flush()?;
        file.sync_all()?;
        sync_directory(directory)?;
        Ok(file)
    };
    let file = open().map_err(|source| Error::Io { doing: "opening", file: path.clone(), source })?;
    Ok((file, length))
}

/// Makes the names in a directory durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A buffer that grew past this for one large batch is given back.
const KEPT_BUFFER: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
