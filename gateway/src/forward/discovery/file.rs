//! Endpoints from a TOML file (`endpoints = [...]`, as in the settings), looked at again and again.
//!
//! It is read when its time, size or inode changed, so that a rename over it, which is how a file is changed whole, is
//! seen whatever its times say.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;

use super::{Error, take};
use crate::forward::upstream::Gone;
use crate::forward::{self, EndpointConfig};

pub(in crate::forward) struct File {
    path: PathBuf,
    interval: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    endpoints: Vec<EndpointConfig>,
}

type Stamp = Option<(SystemTime, u64, u64)>;

impl File {
    pub(in crate::forward) fn new(path: &Path, interval: Duration) -> Self {
        Self { path: path.to_owned(), interval }
    }

    /// The list as it is now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::forward) fn read(&self) -> Result<Vec<EndpointConfig>, Error> {
        let content: Result<Content, _> = Figment::from(Toml::file_exact(&self.path)).extract();
        let endpoints = content.map_err(|e| Error::Invalid(Box::new(e)))?.endpoints;
        forward::validate(&endpoints)?;
        if endpoints.is_empty() { Err(Error::Empty) } else { Ok(endpoints) }
    }

    /// Keeps a cluster, which may be gone some day, at what the file says.
    pub(in crate::forward) async fn follow(self, upstream: Gone) {
        let mut seen = None;
        loop {
            let stamp = self.stamp();
            if stamp != seen && stamp.is_some() {
                let Some(upstream) = upstream.upgrade() else { return };
                // A bad one is told of once.
                seen = stamp;
                if take(&upstream, self.read()) {
                    tracing::info!(file = %self.path.display(), "endpoints taken from the file");
                }
            }
            tokio::time::sleep(self.interval).await;
            if upstream.upgrade().is_none() {
                return;
            }
        }
    }

    fn stamp(&self) -> Stamp {
        let metadata = fs_err::metadata(&self.path).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    }
}
