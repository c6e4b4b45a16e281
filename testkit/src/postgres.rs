//! A real PostgreSQL, made by initdb in a directory of its own and reached through a Unix socket there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::Process;

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);
/// Where Debian keeps the programs that are not on the path, one directory a version.
const DEBIAN: &str = "/usr/lib/postgresql";

pub struct Postgres {
    process: Process,
    directory: TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Ends its sessions rather than waiting for them.
        self.process.interrupt();
        let _ = self.process.wait_exit(STOP);
    }
}

impl Postgres {
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // PostgreSQL does not run as root.
        let owner =
            if is_root() { Some(user("postgres").context("there is a user postgres to run as")?) } else { None };
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid))?;
        }
        let data = directory.path().join("data");
        let mut init = as_user(Command::new(program("initdb")?), owner);
        init.args(["--auth", "trust", "--username", "nearfield", "--no-sync", "--encoding", "UTF8", "--locale", "C"]);
        let output =
            init.arg("--pgdata").arg(&data).current_dir(directory.path()).output().context("running initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let process = Self::spawn(directory.path(), owner)?;
        Ok(Self { process, directory })
    }

    fn spawn(directory: &Path, owner: Option<(u32, u32)>) -> Result<Process> {
        let mut command = as_user(Command::new(program("postgres")?), owner);
        command.arg("-D").arg(directory.join("data")).arg("-k").arg(directory).current_dir(directory);
        command.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"]);
        let process = Process::spawn("postgres", command)?;
        let end = Instant::now() + START;
        while !process.tail(20).contains("ready to accept connections") {
            if !process.is_running() || Instant::now() > end {
                bail!("PostgreSQL does not start:\n{}", process.tail(20));
            }
            std::thread::yield_now();
        }
        Ok(process)
    }

    /// Of the database that initdb makes.
    pub fn url(&self) -> String {
        // A path is a host when its slashes are escaped.
        let socket = self.directory.path().display().to_string().replace('/', "%2F");
        format!("postgres://nearfield@{socket}/postgres")
    }

    /// Ends it, sessions and all.
    pub fn stop(&self) -> Result<()> {
        self.process.interrupt();
        self.process.wait_exit(STOP).map(drop)
    }

    /// Starts it again over its data.
    pub fn restart(&mut self) -> Result<()> {
        let owner = if is_root() { Some(user("postgres")?) } else { None };
        self.process = Self::spawn(self.directory.path(), owner)?;
        Ok(())
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid(2) only tells.
    unsafe { libc::geteuid() == 0 }
}

fn as_user(mut command: Command, owner: Option<(u32, u32)>) -> Command {
    use std::os::unix::process::CommandExt;
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
}

/// The user's ids.
fn user(name: &str) -> Result<(u32, u32)> {
    let users = fs_err::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name));
    let fields: Vec<&str> = line.with_context(|| format!("the user {name}"))?.split(':').collect();
    Ok((fields.get(2).context("a uid")?.parse()?, fields.get(3).context("a gid")?.parse()?))
}

/// A program of PostgreSQL's: Debian's newest, else whatever is on the path.
fn program(name: &str) -> Result<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.is_file());
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = || std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.pop().or_else(on_path).with_context(|| format!("{name} is needed: apt-get install postgresql"))
}
