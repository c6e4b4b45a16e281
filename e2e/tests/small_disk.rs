//! A disk that is full soon.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// A small tmpfs; none where mounting is not allowed.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount(mib: u32) -> Result<Option<Self>> {
        let directory = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "nearfield-e2e"]).arg(directory.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        Ok(is_mounted.then_some(Self(directory)))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn grow(&self, mib: u32) -> Result<()> {
        let size = format!("remount,size={mib}m");
        let status = Command::new("mount").args(["-o", &size]).arg(self.path()).status()?;
        status.success().then_some(()).context("remounting")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may have it open.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
