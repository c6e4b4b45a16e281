//! A line of the audit log, and what ties it to the line before.
//!
//! `{"seq":…,"time":…,…,"previous":"<hash>","hash":"<hash>"}`: `hash` is BLAKE3 of the line as it would be without it,
//! `previous` the hash of the line before, or zeros in the first.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Act, files};

/// Stands before the first line.
pub(super) const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[derive(Serialize)]
struct Entry<'a> {
    seq: u64,
    time: &'a str,
    #[serde(flatten)]
    act: &'a Act,
    previous: &'a str,
}

/// The end of the chain: number and hash of the last line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) hash: String,
}

impl Default for Link {
    fn default() -> Self {
        Self { seq: 0, hash: BEGINNING.to_owned() }
    }
}

/// The line of `act`, which follows `last`, with its line feed.
pub(super) fn line(act: &Act, time: &str, last: &Link) -> (String, Link) {
    let entry = Entry { seq: last.seq + 1, time, act, previous: &last.hash };
    let mut json = serde_json::to_string(&entry).expect("an act holds only strings and numbers");
    let hash = blake3::hash(json.as_bytes()).to_hex().to_string();
    json.pop();
    (format!("{json},\"hash\":\"{hash}\"}}\n"), Link { seq: entry.seq, hash })
}

/// What of a line is checked.
#[derive(Deserialize)]
struct Checked {
    seq: u64,
    previous: String,
    hash: String,
}

/// Reads a line, whose hash has to be its own. Gives the link that it is, and the hash of the line before.
pub(super) fn check(line: &str) -> Option<(Link, String)> {
    let Checked { seq, previous, hash } = serde_json::from_str(line).ok()?;
    let body = line.strip_suffix(&format!(",\"hash\":\"{hash}\"}}"))?;
    let own = blake3::hash(format!("{body}}}").as_bytes()).to_hex();
    (own.as_str() == hash).then_some((Link { seq, hash }, previous))
}

/// What a log was found to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    pub acts: u64,
    /// The number of the first act that is still there; 1 unless older files have gone.
    pub first: u64,
    /// The hash of the last, to be compared with what was noted elsewhere.
    pub hash: String,
}

/// Why a log is not whole.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("reading the files")]
    Read(#[from] std::io::Error),
    #[error("{file}, line {line}: {why}")]
    Line { file: String, line: usize, why: &'static str },
}

/// Follows the chain through all files of `directory`.
///
/// # Errors
/// The first place where it does not hold.
pub fn verify(directory: &Path) -> Result<Verified, Broken> {
    let mut last: Option<Link> = None;
    let mut found = Verified { acts: 0, first: 0, hash: BEGINNING.to_owned() };
    for path in files::list(directory)? {
        let text = fs_err::read_to_string(&path)?;
        for (line, number) in text.lines().zip(1..) {
            let broken = |why| Broken::Line { file: path.display().to_string(), line: number, why };
            let (link, previous) = check(line).ok_or_else(|| broken("the line is not what was written"))?;
            match &last {
                Some(last) if last.seq + 1 != link.seq || last.hash != previous => {
                    return Err(broken("the line does not follow the one before"));
                }
                None if link.seq == 1 && previous != BEGINNING => return Err(broken("the line is not the first")),
                _ => {}
            }
            if found.acts == 0 {
                found.first = link.seq;
            }
            found.acts += 1;
            found.hash.clone_from(&link.hash);
            last = Some(link);
        }
    }
    Ok(found)
}
