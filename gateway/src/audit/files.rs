//! The files of the audit log: `audit-<number of the first act>.jsonl`, so that their names sort by time.

use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";

/// The file that begins with the act `seq`.
pub(super) fn path(directory: &Path, seq: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{seq:020}{SUFFIX}"))
}

/// The number of the act with which a file begins, by its name.
pub(super) fn first(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

/// All files, the oldest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs_err::read_dir(directory)?;
    let mut found = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    found.retain(|path| first(path).is_some());
    found.sort();
    Ok(found)
}
