//! Pages of the audit log, read from its files from the end.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::files;

/// Acts of others that one page passes over at most; the next page goes on there.
const MAX_PASSED: usize = 100_000;

/// Acts as they were written, the newest first.
#[derive(Debug, Default, Serialize)]
pub struct Page {
    pub acts: Vec<Box<RawValue>>,
    /// The number before which the next page begins; none at the end.
    pub next: Option<u64>,
}

#[derive(Deserialize)]
struct Looked<'a> {
    seq: u64,
    #[serde(borrow)]
    tenant: Option<std::borrow::Cow<'a, str>>,
}

pub(super) fn page(directory: &Path, tenant: Option<&str>, before: Option<u64>, limit: usize) -> io::Result<Page> {
    let mut page = Page::default();
    let mut passed = 0;
    let wanted = |path: &&std::path::PathBuf| files::first(path).is_some_and(|first| before.is_none_or(|b| first < b));
    for path in files::list(directory)?.iter().filter(wanted).rev() {
        let text = match fs_err::read_to_string(path) {
            Ok(text) => text,
            // The oldest file has just gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in text.lines().rev() {
            // A line that is just being written is not there yet.
            let Ok(Looked { seq, tenant: of }) = serde_json::from_str(line) else { continue };
            if before.is_some_and(|before| seq >= before) {
                continue;
            }
            if page.acts.len() == limit || passed == MAX_PASSED {
                page.next = Some(seq + 1);
                return Ok(page);
            }
            if tenant.is_some_and(|tenant| of.as_deref() != Some(tenant)) {
                passed += 1;
                continue;
            }
            page.acts.extend(RawValue::from_string(line.to_owned()));
        }
    }
    Ok(page)
}
