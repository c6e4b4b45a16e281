//! How long backups are kept, and clearing away what none of them needs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use super::manifest::{self, Backup};
use super::repository::{CHUNKS, Repository};
use super::{Error, archive};

/// An object that no backup names may belong to one that is being made. It is cleared away when it is as old as that.
pub const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// A backup is kept while it is one of the newest, or young.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// At least 1.
    pub newest: usize,
    pub younger_than: Duration,
}

/// What was cleared away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub backups: usize,
    pub chunks: usize,
    pub log_pieces: usize,
}

/// Removes backups past their time, then the log before the oldest one that is left, then chunks that none names.
/// `grace` is [`GRACE`] unless nobody else uses the storage.
pub async fn prune(repository: &Repository, keep: Keep, grace: Duration) -> Result<Pruned, Error> {
    let mut pruned = Pruned::default();
    let mut kept = Vec::new();
    let now = SystemTime::now();
    let unix = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let oldest = unix.saturating_sub(keep.younger_than).as_nanos() as u64;
    for (rank, id) in manifest::ids(repository).await?.into_iter().rev().enumerate() {
        // Whatever cannot be read is left alone, and so is everything that it may name.
        let backup = Backup::load(repository, &id).await?;
        if rank < keep.newest.max(1) || backup.finished >= oldest {
            kept.push(backup);
        } else {
            Backup::remove(repository, &id).await?;
            pruned.backups += 1;
        }
    }
    if kept.is_empty() {
        return Ok(pruned);
    }
    // Of each instance, the first record that a restore may need.
    let mut needed: BTreeMap<&str, u64> = BTreeMap::new();
    for backup in &kept {
        let from = needed.entry(&backup.node).or_insert(backup.next_record);
        *from = backup.next_record.min(*from);
    }
    for piece in archive::all(repository).await? {
        let is_needed = needed.get(piece.node.as_str()).is_some_and(|from| piece.last >= *from);
        if !is_needed && is_older(&piece.stored, now, grace) {
            repository.delete(&piece.object).await?;
            pruned.log_pieces += 1;
        }
    }
    let named: HashSet<&str> =
        kept.iter().flat_map(|backup| &backup.files).flat_map(|file| &file.chunks).map(String::as_str).collect();
    let chunks = repository.list(CHUNKS).await?;
    let unneeded: BTreeSet<_> = chunks
        .into_iter()
        .filter(|meta| !meta.location.filename().is_some_and(|name| named.contains(name)))
        .filter(|meta| is_older(&SystemTime::from(meta.last_modified), now, grace))
        .map(|meta| meta.location.to_string())
        .collect();
    for object in unneeded {
        repository.delete(&object).await?;
        pruned.chunks += 1;
    }
    Ok(pruned)
}

fn is_older(stored: &SystemTime, now: SystemTime, age: Duration) -> bool {
    now.duration_since(*stored).unwrap_or(Duration::ZERO) >= age
}
