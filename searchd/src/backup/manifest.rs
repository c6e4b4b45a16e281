//! What a backup consists of: the text that makes it one, written last, with a checksum of its own.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Error, Repository};
use crate::engine::vector_clock::VectorClock;

/// Checked before anything else of a backup is believed.
pub const FORMAT: u32 = 1;

const FOLDER: &str = "backups";

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Backup {
    pub format: u32,
    /// Sorts by time.
    pub id: String,
    /// The instance whose log goes on after it: 16 hexadecimal digits.
    pub node: String,
    pub region: String,
    /// Unix time in nanoseconds at which it was complete.
    pub finished: u64,
    /// The first record of the log that is not in the checkpoint, and the first that is not in the backup.
    pub from_record: u64,
    pub next_record: u64,
    /// The physical part of the latest stamp in it: Unix time in nanoseconds.
    pub latest: u64,
    /// What had been applied: origin in hexadecimal → sequence number.
    pub clock: BTreeMap<String, u64>,
    pub files: Vec<File>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct File {
    /// Below the data directory, with `/` between its parts.
    pub path: String,
    pub bytes: u64,
    /// BLAKE3 of each chunk, in hexadecimal.
    pub chunks: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct Sealed<'a> {
    blake3: String,
    #[serde(borrow)]
    backup: &'a RawValue,
}

impl Backup {
    /// An id for a backup of `node` that is complete at `finished`, Unix time in nanoseconds.
    pub fn name(finished: u64, node: u64) -> String {
        let time = humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_nanos(finished));
        let compact: String = time.to_string().chars().filter(|letter| !matches!(letter, '-' | ':')).collect();
        format!("{compact}-{node:016x}")
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub fn applied(&self) -> VectorClock {
        let origin = |text: &String| u64::from_str_radix(text, 16).ok();
        self.clock.iter().filter_map(|(text, sequence)| Some((origin(text)?, *sequence))).collect()
    }

    pub async fn store(&self, repository: &Repository) -> Result<(), Error> {
        let text = serde_json::to_string(self).expect("numbers and strings serialize");
        let backup: &RawValue = serde_json::from_str(&text).expect("it was just written");
        let sealed = Sealed { blake3: blake3::hash(text.as_bytes()).to_hex().to_string(), backup };
        let bytes = serde_json::to_vec(&sealed).expect("two strings serialize");
        repository.put(&object(&self.id), bytes.into()).await
    }

    pub async fn load(repository: &Repository, id: &str) -> Result<Self, Error> {
        let object = object(id);
        let bytes = repository.get(&object).await?.ok_or_else(|| Error::NoBackup(id.to_owned()))?;
        let damaged = || Error::Damaged(object.clone());
        let sealed: Sealed<'_> = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        let text = sealed.backup.get();
        if blake3::hash(text.as_bytes()).to_hex().as_str() != sealed.blake3 {
            return Err(damaged());
        }
        let format = serde_json::from_str::<Format>(text).map_err(|_| damaged())?.format;
        if format != FORMAT {
            return Err(Error::Format { id: id.to_owned(), found: format });
        }
        let backup: Self = serde_json::from_str(text).map_err(|_| damaged())?;
        if backup.id == id && backup.files.iter().all(File::is_inside) { Ok(backup) } else { Err(damaged()) }
    }

    pub async fn remove(repository: &Repository, id: &str) -> Result<(), Error> {
        repository.delete(&object(id)).await
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl File {
    /// Whether the path stays below the directory that it is for.
    pub(super) fn is_inside(&self) -> bool {
        let mut parts = Path::new(&self.path).components();
        !self.path.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
    }
}

/// The ids of the backups that there are, oldest first.
pub async fn ids(repository: &Repository) -> Result<Vec<String>, Error> {
    let objects = repository.list(FOLDER).await?;
    let names = objects.iter().filter_map(|meta| meta.location.filename()?.strip_suffix(".json"));
    let mut ids: Vec<String> = names.map(str::to_owned).collect();
    ids.sort_unstable();
    Ok(ids)
}

fn object(id: &str) -> String {
    format!("{FOLDER}/{id}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Backup {
        let file = File { path: "collections/1/records-1".into(), bytes: 3, chunks: vec!["ab".into()] };
        Backup {
            format: FORMAT,
            id: Backup::name(1_700_000_000_123_000_000, 7),
            node: format!("{:016x}", 7),
            region: "local".into(),
            finished: 1_700_000_000_123_000_000,
            from_record: 1,
            next_record: 9,
            latest: u64::MAX,
            clock: [(format!("{:016x}", 7), 8)].into(),
            files: vec![file],
        }
    }

    #[tokio::test]
    async fn a_backup_comes_back_and_no_flipped_bit_goes_unseen() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open(directory.path().to_str().unwrap()).unwrap();
        let backup = sample();
        assert_eq!(backup.id, "20231114T221320.123Z-0000000000000007");
        backup.store(&repository).await.unwrap();
        assert_eq!(ids(&repository).await.unwrap(), std::slice::from_ref(&backup.id));
        assert_eq!(Backup::load(&repository, &backup.id).await.unwrap(), backup);
        let file = directory.path().join(object(&backup.id));
        let whole = std::fs::read(&file).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&file, damaged).unwrap();
            // A letter of another case in the envelope's own words changes nothing.
            if let Ok(read) = Backup::load(&repository, &backup.id).await {
                assert_eq!(read, backup, "bit {bit}");
            }
        }
        Backup::remove(&repository, &backup.id).await.unwrap();
        assert!(matches!(Backup::load(&repository, &backup.id).await, Err(Error::NoBackup(_))));
    }

    #[tokio::test]
    async fn a_backup_never_writes_outside_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open(directory.path().to_str().unwrap()).unwrap();
        for path in ["../x", "/etc/x", "a/../../x", ""] {
            let mut backup = sample();
            backup.files[0].path = path.into();
            backup.store(&repository).await.unwrap();
            assert!(matches!(Backup::load(&repository, &backup.id).await, Err(Error::Damaged(_))), "{path}");
        }
    }
}
