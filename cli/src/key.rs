//! `nearfield key`: API keys. A running server honours a change with the next request.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nearfield_auth::Scopes;
use nearfield_auth::api_key::{ApiKeys, NewKey, Record};
use nearfield_auth::dev::api_keys_path;

use crate::token::scopes;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Makes a key and prints it: this once, only its hash is kept
    Create {
        #[command(flatten)]
        store: Store,
        /// Who the key is for
        #[arg(long)]
        subject: String,
        /// What it allows, separated by spaces: vectors:read, vectors:write, collections:admin, cache:admin,
        /// regions:read
        #[arg(long, value_parser = scopes)]
        scope: Scopes,
        /// Confines it to the collections of this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Whose rate limits apply
        #[arg(long)]
        plan: Option<String>,
    },
    /// Lists the keys, the newest first
    List {
        #[command(flatten)]
        store: Store,
    },
    /// Revokes a key for good
    Revoke {
        #[command(flatten)]
        store: Store,
        /// As `key list` shows it
        id: String,
    },
}

/// Where the keys are kept.
#[derive(clap::Args)]
pub struct Store {
    /// The data directory of `nearfield dev`
    #[arg(long, default_value = "./nearfield-data")]
    data_dir: PathBuf,
    /// The file that `[auth] api_keys` names in a gateway's settings, instead of the one in the data directory
    #[arg(long)]
    file: Option<PathBuf>,
}

impl Store {
    fn path(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| api_keys_path(&self.data_dir))
    }

    async fn open(&self) -> Result<ApiKeys> {
        open(&self.path()).await
    }

    async fn open_existing(&self) -> Result<ApiKeys> {
        let path = self.path();
        if !path.exists() {
            bail!("there are no API keys at {}", path.display());
        }
        open(&path).await
    }
}

async fn open(path: &Path) -> Result<ApiKeys> {
    ApiKeys::open(path).await.with_context(|| format!("opening the API keys at {}", path.display()))
}

pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Create { store, subject, scope, tenant, plan } => {
            let keys = store.open().await?;
            let (key, record) = keys.create(NewKey { subject, scopes: scope, tenant, plan }).await?;
            eprintln!("key {} for {}: it is shown this once", record.id, record.subject);
            println!("{key}");
        }
        Command::List { store } => list(&store.open_existing().await?.list().await?),
        Command::Revoke { store, id } => {
            if !store.open_existing().await?.revoke(&id).await? {
                bail!("there is no key {id} to revoke: unknown, or revoked before");
            }
            eprintln!("key {id} is revoked");
        }
    }
    Ok(())
}

fn list(records: &[Record]) {
    let heads = ["ID", "SUBJECT", "TENANT", "PLAN", "CREATED", "REVOKED", "SCOPES"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(heads).chain(records.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

fn row(record: &Record) -> [String; 7] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let time = |seconds: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    [
        record.id.clone(),
        record.subject.clone(),
        or_dash(&record.tenant),
        or_dash(&record.plan),
        time(record.created),
        record.revoked.map_or_else(|| "-".to_owned(), time),
        record.scopes.to_string(),
    ]
}
