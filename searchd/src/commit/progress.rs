//! Where the log is, as seen by whoever writes checkpoints and lets old files go.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wal::Wal;

pub struct Progress {
    /// The first record that is not applied yet.
    next_record: AtomicU64,
    /// Bytes of log written since the start.
    bytes: AtomicU64,
    /// The first record that the last checkpoint may lack, and `bytes` at that time.
    checkpointed: AtomicU64,
    checkpointed_bytes: AtomicU64,
    /// The first record that is not in the archive; nothing is kept for an archive when there is none.
    archived: AtomicU64,
    kept: Kept,
}

/// How much log is kept although a checkpoint has it.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Bytes for peers.
    pub for_peers: u64,
    /// Most bytes for an archive that is behind; none without an archive.
    pub for_archive: Option<u64>,
}

impl Progress {
    /// `from_record` is where the checkpoint that was restored ends, `replayed_bytes` how much log came after it.
    pub fn new(wal: &Wal, from_record: u64, replayed_bytes: u64, kept: Kept) -> Self {
        Self {
            next_record: AtomicU64::new(wal.next()),
            bytes: AtomicU64::new(replayed_bytes),
            checkpointed: AtomicU64::new(from_record),
            checkpointed_bytes: AtomicU64::new(0),
            archived: AtomicU64::new(if kept.for_archive.is_some() { 0 } else { u64::MAX }),
            kept,
        }
    }

    /// What the log has now is applied.
    pub(super) fn advance(&self, wal: &Wal) {
        self.bytes.fetch_add(wal.last_batch_bytes(), Ordering::Relaxed);
        self.next_record.store(wal.next(), Ordering::Release);
    }

    /// Lets files go that a checkpoint has made superfluous.
    pub(super) fn forget(&self, wal: &mut Wal) {
        let from = self.checkpointed.load(Ordering::Acquire);
        let archived = self.archived.load(Ordering::Acquire);
        let mut outcome = wal.forget_before(from.min(archived), self.kept.for_peers);
        if let Some(most) = self.kept.for_archive.filter(|_| archived < from) {
            // An archive that stays away must not fill the disk.
            outcome = outcome.and_then(|()| wal.forget_before(from, most.max(self.kept.for_peers)));
        }
        if let Err(error) = outcome {
            tracing::warn!(%error, "a log file that is not needed any more could not be removed");
        }
    }

    /// The first record that is not applied yet, and the bytes before it.
    pub fn position(&self) -> (u64, u64) {
        // In this order: the checkpoint may be taken to lack more than it does, never less.
        let record = self.next_record.load(Ordering::Acquire);
        (record, self.bytes.load(Ordering::Relaxed))
    }

    /// A checkpoint of [`Progress::position`] is durable.
    pub fn checkpointed(&self, record: u64, bytes: u64) {
        self.checkpointed_bytes.store(bytes, Ordering::Relaxed);
        self.checkpointed.store(record, Ordering::Release);
    }

    /// Everything before this record is in the archive.
    pub fn archived(&self, next_record: u64) {
        self.archived.store(next_record, Ordering::Release);
    }

    pub fn records_since_checkpoint(&self) -> u64 {
        self.next_record.load(Ordering::Acquire) - self.checkpointed.load(Ordering::Acquire)
    }

    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).saturating_sub(self.checkpointed_bytes.load(Ordering::Relaxed))
    }
}
