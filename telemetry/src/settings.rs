//! Settings come from a TOML file, then from the environment: `NEARFIELD_<SECTION>__<KEY>` overrides `[section] key`.
//!
//! A settings type derives `Deserialize` with `deny_unknown_fields` and `default`, so a misspelt key is an error that
//! names it, and an absent one takes the documented default.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use serde::de::DeserializeOwned;

/// What is wrong with the settings, in words that name the key and the file or variable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the settings")]
    Invalid(#[source] Box<figment::Error>),
    #[error("no settings file at {}", .0.display())]
    Missing(PathBuf),
}

/// Reads `file`, when one is named, and the environment.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, Error> {
    let mut figment = Figment::new();
    if let Some(file) = file {
        if !file.is_file() {
            return Err(Error::Missing(file.to_owned()));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment.merge(Env::prefixed("NEARFIELD_").split("__")).extract().map_err(|e| Error::Invalid(Box::new(e)))
}
