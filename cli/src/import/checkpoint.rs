//! How far an import has come, kept in a small file so that the next run goes on from there.
//!
//! The file is found by what is imported (path, size and time of the last change), where (URL) and into what
//! (collection): a file that has changed, or another server, starts from nothing.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use fs_err as fs;
use reqwest::Url;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct State {
    /// For whoever looks into the folder.
    file: PathBuf,
    url: String,
    collection: String,
    /// The first so many points of the file are stored.
    points: u64,
}

pub(super) struct Checkpoint {
    path: PathBuf,
    state: State,
}

impl Checkpoint {
    /// Finds the checkpoint of this import, or begins one.
    pub(super) fn open(folder: Option<PathBuf>, file: &Path, url: &Url, collection: &str) -> Result<Self> {
        let folder = folder.map_or_else(default_folder, Ok)?.join("imports");
        fs::create_dir_all(&folder)?;
        let file = fs::canonicalize(file)?;
        let metadata = fs::metadata(&file)?;
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let identity = serde_json::to_vec(&(&file, metadata.len(), changed, url.as_str(), collection))?;
        let path = folder.join(format!("{}.json", &blake3::hash(&identity).to_hex()[..32]));
        let known = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<State>(&text).ok());
        let new = || State { file, url: url.to_string(), collection: collection.to_owned(), points: 0 };
        Ok(Self { path, state: known.unwrap_or_else(new) })
    }

    /// How many of the file's first points are stored.
    pub(super) fn points(&self) -> u64 {
        self.state.points
    }

    /// The first `points` are stored now.
    pub(super) fn reach(&mut self, points: u64) -> Result<()> {
        self.state.points = points;
        let draft = self.path.with_extension("new");
        fs::write(&draft, serde_json::to_vec(&self.state)?)?;
        Ok(fs::rename(&draft, &self.path)?)
    }

    /// The whole file is stored: nothing is left to remember.
    pub(super) fn finish(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn default_folder() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    Ok(state.context("neither XDG_STATE_HOME nor HOME is set: say --state-dir")?.join("nearfield"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_known_by_file_server_and_collection() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.jsonl");
        fs::write(&file, "{}").expect("it is written");
        let url: Url = "https://127.0.0.1:8443".parse().expect("a URL");
        let open = |url: &Url, collection: &str| {
            Checkpoint::open(Some(folder.path().to_owned()), &file, url, collection).expect("a checkpoint")
        };
        open(&url, "c").reach(500).expect("it is written");
        assert_eq!(open(&url, "c").points(), 500);
        assert_eq!(open(&url, "d").points(), 0);
        assert_eq!(open(&"https://127.0.0.1:8444".parse().expect("a URL"), "c").points(), 0);
        open(&url, "c").finish().expect("it is removed");
        assert_eq!(open(&url, "c").points(), 0);
        open(&url, "c").reach(500).expect("it is written");
        fs::write(&file, "{}{}").expect("it is written");
        assert_eq!(open(&url, "c").points(), 0, "the file has changed");
    }
}
