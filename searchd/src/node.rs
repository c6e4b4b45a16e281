//! The data directory's identity: one searchd at a time, and always the same number in the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::wal::sync_directory;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("opening the data directory {}", .directory.display())]
    Io { directory: PathBuf, source: io::Error },
    #[error("another searchd uses the data directory {}", .0.display())]
    InUse(PathBuf),
    #[error("the file {} does not hold an instance's number", .0.display())]
    Malformed(PathBuf),
}

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct Node {
    /// Random, made once, never 0.
    pub id: u64,
    pub directory: PathBuf,
    /// Holds the lock; the kernel lets it go with the process, however that ends.
    _lock: Lock,
}

impl Node {
    /// `fresh` is the number that a new directory gets.
    pub fn open(directory: &Path, fresh: u64) -> Result<Self, Error> {
        let lock = lock(directory)?;
        let id = read_or_write(&directory.join("node"), fresh, directory)?;
        Ok(Self { id, directory: directory.into(), _lock: lock })
    }
}

/// The file in a data directory that its user holds locked.
pub const LOCK: &str = "lock";

/// A directory that nobody else uses until this is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing it alone: a process that is being started elsewhere has the file as well, until it becomes another program.
        // SAFETY: the descriptor is open for the length of the call, and the call touches no memory.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}

/// Makes the directory and holds it.
pub fn lock(directory: &Path) -> Result<Lock, Error> {
    let io = |source| Error::Io { directory: directory.into(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    let options = || OpenOptions::new().create(true).truncate(false).read(true).write(true).open(directory.join(LOCK));
    let lock = options().map_err(io)?;
    // SAFETY: the descriptor is open for the length of the call, and the call touches no memory.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        let taken = error.kind() == io::ErrorKind::WouldBlock;
        return Err(if taken { Error::InUse(directory.into()) } else { io(error) });
    }
    Ok(Lock(lock))
}

fn read_or_write(file: &Path, fresh: u64, directory: &Path) -> Result<u64, Error> {
    let io = |source| Error::Io { directory: directory.into(), source };
    match std::fs::read(file) {
        Ok(text) => {
            let id = std::str::from_utf8(&text).ok().and_then(parse);
            id.ok_or_else(|| Error::Malformed(file.into()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let temporary = file.with_extension("tmp");
            let write = || {
                let mut new = File::create(&temporary)?;
                writeln!(new, "{}", show(fresh))?;
                new.sync_all()?;
                std::fs::rename(&temporary, file)?;
                sync_directory(directory)
            };
            write().map_err(io)?;
            Ok(fresh)
        }
        Err(error) => Err(io(error)),
    }
}

/// The number with its checksum: another digit would make this another instance.
fn show(id: u64) -> String {
    format!("{id:016x} {:08x}", crc32fast::hash(&id.to_le_bytes()))
}

fn parse(text: &str) -> Option<u64> {
    let text = text.strip_suffix('\n')?;
    let id = u64::from_str_radix(text.split(' ').next()?, 16).ok().filter(|id| *id != 0)?;
    // Earlier versions wrote no checksum.
    (text == show(id) || text.len() == 16).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_number_and_has_one_user() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::open(directory.path(), 7).unwrap();
        assert_eq!(node.id, 7);
        assert!(matches!(Node::open(directory.path(), 8), Err(Error::InUse(_))));
        drop(node);
        assert_eq!(Node::open(directory.path(), 9).unwrap().id, 7);
        let file = directory.path().join("node");
        let text = std::fs::read(&file).unwrap();
        for bit in 0..text.len() * 8 {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&file, damaged).unwrap();
            assert!(Node::open(directory.path(), 9).is_err(), "bit {bit}");
        }
    }
}
