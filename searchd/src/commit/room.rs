//! The room on the disk that writes must leave alone.
//!
//! A checkpoint needs room before it gives any back, by letting log files go. A disk that writes filled to the last byte
//! would never recover by itself; so writes are refused a little earlier.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

pub struct Room {
    /// None when the path cannot be asked about: then only the disk itself refuses.
    path: Option<CString>,
    reserve_bytes: u64,
    seen: Option<(Instant, bool)>,
}

impl Room {
    /// Keeps `reserve_bytes` free on the disk that `directory` is on; 0 keeps none.
    pub fn new(directory: &Path, reserve_bytes: u64) -> Self {
        Self { path: CString::new(directory.as_os_str().as_bytes()).ok(), reserve_bytes, seen: None }
    }

    /// Whether less is left than is kept.
    pub fn is_short(&mut self) -> bool {
        if self.reserve_bytes == 0 {
            return false;
        }
        if let Some((at, short)) = self.seen
            && at.elapsed() < FRESH
        {
            return short;
        }
        let short = self.free_bytes().is_some_and(|free| free < self.reserve_bytes);
        if self.seen.is_none_or(|(_, before)| before != short) {
            let (reserve, free) = (self.reserve_bytes, self.free_bytes());
            if short {
                tracing::error!(reserve, free, "the disk is nearly full: only deletes are taken");
            } else if self.seen.is_some() {
                tracing::info!(reserve, free, "there is room again: writes are taken");
            }
        }
        self.seen = Some((Instant::now(), short));
        short
    }

    /// Bytes that this process may still use.
    fn free_bytes(&self) -> Option<u64> {
        let path = self.path.as_ref()?;
        // SAFETY: statvfs is plain data, for the kernel to fill in.
        let mut disk: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends with a zero byte, and both outlive the call.
        let asked = unsafe { libc::statvfs(path.as_ptr(), &mut disk) };
        (asked == 0).then(|| disk.f_bavail as u64 * disk.f_frsize as u64)
    }
}

/// How long an answer of the kernel is believed.
const FRESH: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_short_when_less_is_left_than_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!Room::new(directory.path(), 1).is_short());
        assert!(Room::new(directory.path(), u64::MAX).is_short());
        assert!(!Room::new(Path::new("/no/such/directory"), u64::MAX).is_short());
    }
}
