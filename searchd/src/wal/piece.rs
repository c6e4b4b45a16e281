//! Records of the log outside of it: what an archive and a snapshot keep, byte for byte as a log file has them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Error, Position, Reader, Replay, reader, record};

/// About so many bytes of records are read at once.
const BLOCK_BYTES: u64 = 4 * 1024 * 1024;

/// Records as a log file has them.
pub fn encode<'a>(records: impl Iterator<Item = &'a Replay>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for replay in records {
        // All of them are durable.
        record::encode(replay.number, replay.number - 1, &replay.entry, &mut bytes);
    }
    bytes
}

/// All records of a piece, when that is what it consists of.
pub fn decode(bytes: &[u8]) -> Option<Vec<Replay>> {
    let (mut at, mut records) = (0, Vec::<Replay>::new());
    while at < bytes.len() {
        let record = record::decode(&bytes[at..])?;
        let follows = records.last().is_none_or(|last| last.number + 1 == record.number);
        if !follows {
            return None;
        }
        at += record.bytes;
        records.push(Replay { number: record.number, entry: record.entry, bytes: record.bytes as u64 });
    }
    Some(records)
}

/// Reads durable records in order, some at a time.
pub struct Cursor {
    position: Position,
    /// Records before this one are passed over.
    from: u64,
}

impl Cursor {
    /// Begins with record `from`; none when it is not there any more.
    pub fn new(log: &Reader, from: u64) -> Option<Self> {
        log.position(from).map(|position| Self { position, from })
    }

    /// The next records, before `until`; empty at the end. None when the log was cut behind the cursor.
    pub fn read(&mut self, log: &Reader, until: u64) -> Result<Option<Vec<Replay>>, Error> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while self.position.next() < until && self.position.next() <= log.durable() && bytes < BLOCK_BYTES {
            let there = log.read(&mut self.position, |replay| {
                let number = replay.number;
                if number >= self.from && number < until {
                    bytes += replay.bytes;
                    records.push(replay);
                }
                bytes < BLOCK_BYTES && number + 1 < until
            })?;
            if !there {
                return Ok(None);
            }
        }
        Ok(Some(records))
    }
}

/// Writes the records from `from` on, before `until`, into a log file of a directory of its own, which is made. False
/// when the log no longer has them.
pub fn copy(log: &Reader, from: u64, until: u64, directory: &Path) -> Result<bool, Error> {
    let path: PathBuf = reader::path(directory, from);
    let failed = |source: io::Error| Error::Io { doing: "copying", file: path.clone(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut file = std::fs::File::create(&path).map_err(failed)?;
    let mut next = from;
    let Some(mut cursor) = Cursor::new(log, from) else { return Ok(from == until) };
    while next < until {
        let Some(records) = cursor.read(log, until)? else { return Ok(false) };
        let Some(last) = records.last() else { return Ok(false) };
        next = last.number + 1;
        file.write_all(&encode(records.iter())).map_err(failed)?;
    }
    Ok(true)
}
