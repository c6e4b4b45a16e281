//! Putting a backup's files to their place in a data directory.

use std::fs::{File as LocalFile, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::manifest::File;
use super::repository::{CHUNK_BYTES, Repository};
use super::{Error, blocking};
use crate::index::vectors::{HEADER, Header, Vectors};

/// When what is written has to be durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Durability {
    /// Before anything goes on.
    Now,
    /// Somebody remembers that it is not yet, sees to it, and looks after a crash: see [`super::arriving`].
    Later,
}

/// From where to where.
#[derive(Clone, Copy)]
pub(super) struct Placing<'a> {
    pub(super) repository: &'a Repository,
    pub(super) directory: &'a Path,
    /// Some of it may be there already.
    pub(super) is_resumed: bool,
}

impl Placing<'_> {
    /// Makes the file, so that all names can become durable together.
    pub(super) fn prepare(&self, file: &File) -> Result<(), Error> {
        let path = self.directory.join(&file.path);
        let make = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let made = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            if made.metadata()?.len() > file.bytes {
                made.set_len(file.bytes)?;
            }
            Ok(())
        };
        make().map_err(|source| Error::Io { doing: "making", path: path.clone(), source })
    }

    /// Makes a file of vectors in its full length, and fetches its header and tables: what it takes to open it. They are durable
    /// later.
    pub(super) async fn lay_out(&self, file: &File) -> Result<(), Error> {
        let (repository, path) = (self.repository, self.directory.join(&file.path));
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
            OpenOptions::new().write(true).open(&made)?.set_len(bytes)?;
            Ok(made)
        };
        let made = blocking(make).await?.map_err(|source| Error::Io { doing: "making", path: path.clone(), source })?;
        let write = move || parts.iter().try_for_each(|(at, bytes)| write(&made, *at, bytes, Durability::Later));
        blocking(write).await??;
        // Both have checksums.
        blocking(move || Vectors::open(&path)).await?.map(drop).map_err(|_| damaged())
    }

    /// Fetches one chunk to its place, unless it is there.
    pub(super) async fn place(&self, file: &File, chunk: usize, durability: Durability) -> Result<(), Error> {
        let (path, name) = (self.directory.join(&file.path), file.chunks[chunk].clone());
        let offset = (chunk * CHUNK_BYTES) as u64;
        let length = (file.bytes - offset).min(CHUNK_BYTES as u64);
        let (there, expected) = (path.clone(), name.clone());
        if self.is_resumed && blocking(move || has(&there, offset, length, &expected)).await? {
            return Ok(());
        }
        let bytes = self.repository.chunk(&name).await?;
        if bytes.len() as u64 != length {
            return Err(Error::Damaged(file.path.clone()));
        }
        blocking(move || write(&path, offset, &bytes, durability)).await?
    }
}

/// Has the system forget what it holds of a file and takes for written, so that what is read is what the disk has. Failing to is no
/// worse than not asking.
pub(super) fn forget(path: &Path) {
    if let Ok(file) = LocalFile::open(path) {
        // SAFETY: the call takes numbers, and the descriptor is open for the length of it.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
}

/// Whether the chunk is there. It need not be durable.
fn has(path: &Path, offset: u64, length: u64, name: &str) -> bool {
    let mut bytes = vec![0; length as usize];
    let read = LocalFile::open(path).and_then(|file| file.read_exact_at(&mut bytes, offset));
    read.is_ok() && blake3::hash(&bytes).to_hex().as_str() == name
}

fn write(path: &PathBuf, offset: u64, bytes: &Bytes, durability: Durability) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(bytes, offset)?;
        match durability {
            Durability::Now => file.sync_data(),
            Durability::Later => Ok(()),
        }
    };
    write().map_err(|source| Error::Io { doing: "writing", path: path.clone(), source })
}
