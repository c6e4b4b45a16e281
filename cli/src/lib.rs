//! The command line of Nearfield: both tiers in one process for development, credentials, and bulk data in and out.

pub mod audit;
pub mod client;
pub mod dev;
pub mod export;
pub mod format;
mod http3;
pub mod import;
pub mod key;
mod progress;
pub mod search;
pub mod token;

/// Search vectors near you.
#[derive(clap::Parser)]
#[command(name = "nearfield", version, about)]
pub enum Command {
    /// Runs one gateway and one searchd in this process
    Dev(dev::Options),
    /// Makes a token that a development server trusts
    Token(token::Options),
    /// Follows the chain of a gateway's audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Makes, lists, rotates and revokes API keys
    #[command(subcommand)]
    Key(key::Command),
    /// Loads points from a .jsonl, .npy, .fvecs or .parquet file into a collection
    Import(import::Options),
    /// Searches once, over HTTP/2 or HTTP/3
    Search(search::Options),
    /// Writes a collection's points to a .jsonl, .npy, .fvecs or .parquet file
    Export(export::Options),
}

impl Command {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Audit(command) => audit::run(command),
            Self::Dev(options) => dev::run(options).await,
            Self::Export(options) => export::run(options).await,
            Self::Import(options) => import::run(options).await,
            Self::Key(command) => key::run(command).await,
            Self::Search(options) => search::run(options).await,
            Self::Token(options) => token::run(&options),
        }
    }
}
