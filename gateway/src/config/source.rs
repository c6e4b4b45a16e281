//! Where the settings of a running gateway come from: a file that is looked at, and read again when it has changed.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nearfield_telemetry::settings::{self, Changed, Values};

use crate::config::Config;

/// The file, the environment, and what was last read from them.
pub struct Source {
    file: Option<PathBuf>,
    config: Config,
    /// What the process began with: other values of keys that need a restart are still to come.
    began: Values,
    applied: Values,
    seen: Vec<Option<SystemTime>>,
}

/// Settings that were read again.
pub struct Read {
    pub config: Config,
    /// Against what is in use.
    pub changed: Changed,
    /// Against what the process began with.
    pub since_start: Changed,
    values: Values,
}

impl Source {
    /// # Errors
    /// As [`settings::load`].
    pub fn load(file: Option<PathBuf>) -> Result<Self, settings::Error> {
        let (config, values): (Config, _) = settings::read(file.as_deref())?;
        let seen = stamps(file.as_deref(), &config);
        Ok(Self { file, config, began: values.clone(), applied: values, seen })
    }

    /// What was last applied.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What is set by the file and the environment, as it was last applied.
    pub fn values(&self) -> &Values {
        &self.applied
    }

    /// Reads everything again.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read(&mut self) -> Result<Read, settings::Error> {
        let topology = self.seen.get(1).copied();
        self.seen = stamps(self.file.as_deref(), &self.config);
        let (config, values): (Config, _) = settings::read(self.file.as_deref())?;
        let mut changed = values.changed(&self.applied);
        if self.seen.get(1).copied() != topology {
            changed.add("topology.file");
        }
        Ok(Read { since_start: values.changed(&self.began), changed, config, values })
    }

    /// `read` is in use now.
    pub fn applied(&mut self, read: Read) {
        self.config = read.config;
        self.applied = read.values;
        self.seen = stamps(self.file.as_deref(), &self.config);
    }

    /// Resolves when a file has another modification time than when it was last read; never when `interval` is zero.
    pub async fn moved(&self, interval: Duration) {
        if interval.is_zero() {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(interval).await;
            if stamps(self.file.as_deref(), &self.config) != self.seen {
                return;
            }
        }
    }
}

/// Of the settings' own file, and of the topology's.
fn stamps(file: Option<&Path>, config: &Config) -> Vec<Option<SystemTime>> {
    let modified = |path: &Path| fs_err::metadata(path).and_then(|m| m.modified()).ok();
    [file, config.topology.file.as_deref()].into_iter().map(|path| path.and_then(modified)).collect()
}
