//! Files of records that small collections share: thousands of them are one file and one sync, not thousands.
//!
//! A checkpoint writes what changed into one new file, and what did not stays where it was. So that there are never more than
//! a few files, nor much in them that nobody needs, some are left behind: what they still hold moves to the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{collections_directory, format};
use crate::engine::Slot;
use crate::wal::sync_directory;

/// Most slots of a collection that shares a file.
pub(super) const SMALL: Slot = 256;

pub(super) fn directory(directory: &Path) -> PathBuf {
    collections_directory(directory).join("shared")
}

pub(super) fn file(root: &Path, number: u64) -> PathBuf {
    directory(root).join(format!("records-{number:08}"))
}

/// Writes one file.
pub(super) struct Writer {
    number: u64,
    path: PathBuf,
    file: BufWriter<File>,
    length: u64,
}

impl Writer {
    pub(super) fn create(root: &Path, number: u64) -> io::Result<Self> {
        let path = file(root, number);
        std::fs::create_dir_all(directory(root))?;
        let file = BufWriter::with_capacity(1024 * 1024, File::create(&path)?);
        Ok(Self { number, path, file, length: 0 })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds one collection's records.
    pub(super) fn push(&mut self, records: &[u8]) -> io::Result<format::Part> {
        self.file.write_all(records)?;
        let part = format::Part { start: self.length, bytes: records.len() as u64 };
        self.length += part.bytes;
        Ok(part)
    }

    /// File and name are durable afterwards. Returns its length.
    pub(super) fn finish(self, root: &Path) -> io::Result<u64> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        sync_directory(&directory(root))?;
        sync_directory(&collections_directory(root))?;
        Ok(self.length)
    }
}

/// How much of a file is in use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    pub(super) length: u64,
    pub(super) used: u64,
}

/// The files to leave behind: those of which less than half is in use, and those that hold less than twice what all shorter
/// ones do together. So there are no more files than triplings of the shortest.
pub(super) fn worn(files: &BTreeMap<u64, Use>) -> BTreeSet<u64> {
    let (holey, rest): (Vec<_>, Vec<_>) = files.iter().partition(|(_, file)| file.used * 2 < file.length);
    let mut rest: Vec<(u64, u64)> = rest.into_iter().map(|(number, file)| (file.used, *number)).collect();
    rest.sort_unstable();
    let (mut shorter, mut left) = (0, 0);
    for (i, (used, _)) in rest.iter().enumerate() {
        if i > 0 && *used < shorter * 2 {
            left = i + 1;
        }
        shorter += used;
    }
    holey.into_iter().map(|(number, _)| *number).chain(rest[..left].iter().map(|(_, number)| *number)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn few_files_stay_and_none_is_mostly_unused(sizes in prop::collection::vec((1..1_000_000u64, 0.0..1.0f64), 0..60)) {
            let all = sizes.into_iter().map(|(length, part)| Use { length, used: (length as f64 * part) as u64 });
            let mut files: BTreeMap<u64, Use> = (1..).zip(all).collect();
            let worn = worn(&files);
            let moved: u64 = worn.iter().map(|number| files[number].used).sum();
            files.retain(|number, _| !worn.contains(number));
            prop_assert!(files.values().all(|file| file.used * 2 >= file.length));
            prop_assert!(files.len() <= 21, "{} files", files.len());
            files.insert(0, Use { length: moved, used: moved });
            let (length, used) = files.values().fold((0, 0), |(length, used), file| (length + file.length, used + file.used));
            prop_assert!(length <= used * 2, "{length} bytes for {used}");
        }
    }

    #[test]
    fn a_large_file_stays_while_small_ones_come_and_go() {
        let sized = |sizes: &[u64]| (1..).zip(sizes.iter().map(|size| Use { length: *size, used: *size })).collect();
        assert!(worn(&sized(&[1_000_000, 10])).is_empty());
        assert_eq!(worn(&sized(&[1_000_000, 10, 12])), BTreeSet::from([2, 3]));
        assert_eq!(worn(&sized(&[20, 10, 12])), BTreeSet::from([1, 2, 3]));
    }
}
