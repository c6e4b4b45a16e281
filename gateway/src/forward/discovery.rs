//! Where a region's searchds are: a list in the settings, or a file that is watched.
//!
//! A new list takes the old one's place at once and whole, and a source that fails, or says something that makes no
//! sense, leaves the old one as it is.

mod file;

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub(super) use self::file::File;
use super::ConfigError;

/// The settings' section `[upstream.discovery]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A file whose `endpoints` are taken.
    pub file: Option<PathBuf>,
    /// How often the file is looked at.
    #[serde(with = "humantime_serde")]
    pub file_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { file: None, file_interval: Duration::from_secs(1) }
    }
}

/// Why a source gave no list.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the endpoints' file")]
    Invalid(#[source] Box<figment::Error>),
    #[error(transparent)]
    Endpoints(#[from] ConfigError),
    #[error("there is no endpoint in the endpoints' file")]
    Empty,
}
