//! Where an address is, by a local database in the MaxMind DB format (GeoLite2 City or Country, DB-IP, IPinfo Lite).
//!
//! The whole file is held in memory and swapped as one when it changes on disk; one that cannot be read is not taken.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use maxminddb::{PathElement, Reader};
use tokio_util::task::AbortOnDropHandle;

use super::Coordinates;
use super::country;
use crate::file_watch;

/// Why a database is not taken.
#[derive(Debug, thiserror::Error)]
#[error("reading the address database {}", path.display())]
pub struct Error {
    path: PathBuf,
    source: maxminddb::MaxMindDbError,
}

/// The database as it is now. Clones are the same.
#[derive(Clone)]
pub struct Database {
    current: Arc<ArcSwapOption<Reader<Vec<u8>>>>,
    _watching: Arc<AbortOnDropHandle<()>>,
}

/// How exactly a place is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    Country(Coordinates),
    Point(Coordinates),
}

impl Database {
    /// Reads the file, and reads it again within `reload_interval` of its changing. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// A file that is not there, or is no such database.
    pub fn start(path: &Path, reload_interval: Duration) -> Result<Self, Error> {
        let current = Arc::new(ArcSwapOption::empty());
        let (file, taken) = (path.to_owned(), current.clone());
        let watching = file_watch::start(path.to_owned(), reload_interval, move || {
            taken.store(Some(Arc::new(open(&file)?)));
            Ok::<_, Error>(())
        })?;
        Ok(Self { current, _watching: Arc::new(watching) })
    }

    /// What [`Self::start`] would fail with.
    ///
    /// # Errors
    /// As there.
    pub fn check(path: &Path) -> Result<(), Error> {
        open(path).map(drop)
    }

    /// Where `addr` is: its coordinates, else the middle of its country.
    pub fn find(&self, addr: IpAddr) -> Option<Found> {
        let reader = self.current.load();
        // A record of another shape, or a damaged one, is as good as none.
        let found = reader.as_deref()?.lookup(addr).ok()?;
        let number = |name| found.decode_path(&[PathElement::Key("location"), PathElement::Key(name)]).ok().flatten();
        if let (Some(latitude), Some(longitude)) = (number("latitude"), number("longitude")) {
            return Coordinates { latitude, longitude }.valid().map(Found::Point);
        }
        let code = |name| found.decode_path::<&str>(&[PathElement::Key(name), PathElement::Key("iso_code")]).ok()?;
        code("country").or_else(|| code("registered_country")).and_then(country::middle).map(Found::Country)
    }
}

fn open(path: &Path) -> Result<Reader<Vec<u8>>, Error> {
    Reader::open_readfile(path).map_err(|source| Error { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
