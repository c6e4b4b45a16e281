//! `nearfield audit`: is a gateway's audit log what was written?

use std::path::PathBuf;

use anyhow::{Context, Result};
use nearfield_gateway::audit::chain;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Says whether every line is what was written and follows the one before
    Verify {
        /// The directory that `[audit] directory` names in the gateway's settings
        directory: PathBuf,
    },
}

pub fn run(command: Command) -> Result<()> {
    let Command::Verify { directory } = command;
    let found = chain::verify(&directory).with_context(|| format!("the audit log in {}", directory.display()))?;
    println!("{} acts, the first of them number {}; the last one's hash is {}", found.acts, found.first, found.hash);
    Ok(())
}
