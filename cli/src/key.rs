//! `nearfield key`: API keys. A running server honours a change with the next request.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nearfield_auth::Scopes;
use nearfield_auth::api_key::{ApiKeys, Listing, Location, NewKey, Position, Record};
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
        /// regions:read, keys:admin, audit:read
        #[arg(long, value_parser = scopes)]
        scope: Scopes,
        /// Confines it to the collections of this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Whose rate limits apply
        #[arg(long)]
        plan: Option<String>,
        /// How long it is good for; without it, until it is revoked
        #[arg(long, value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
    },
    /// Lists the keys, the newest first
    List {
        #[command(flatten)]
        store: Store,
    },
    /// Makes a key in the place of another, which goes on being good for a while
    Rotate {
        #[command(flatten)]
        store: Store,
        /// As `key list` shows it
        id: String,
        /// How long the old key is good beside the new one
        #[arg(long, default_value = "1day", value_parser = humantime::parse_duration)]
        overlap: Duration,
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
    /// The file, or the postgres:// URL, that `[auth] api_keys` names in a gateway's settings, instead of the file in the
    /// data directory
    #[arg(long, alias = "file")]
    store: Option<String>,
}

impl Store {
    fn location(&self) -> Location {
        self.store.clone().map_or_else(|| api_keys_path(&self.data_dir).into(), Location::from)
    }

    async fn open(&self) -> Result<ApiKeys> {
        let location = self.location();
        ApiKeys::open(location.clone()).await.with_context(|| format!("opening the API keys at {location}"))
    }

    async fn open_existing(&self) -> Result<ApiKeys> {
        if let Location::Sqlite(path) = self.location()
            && !path.exists()
        {
            bail!("there are no API keys at {}", path.display());
        }
        self.open().await
    }
}

pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Create { store, subject, scope, tenant, plan, ttl } => {
            let keys = store.open().await?;
            let (key, record) = keys.create(NewKey { subject, scopes: scope, tenant, plan, ttl }).await?;
            eprintln!("key {} for {}: it is shown this once", record.id, record.subject);
            println!("{key}");
        }
        Command::List { store } => list(&all(&store.open_existing().await?).await?),
        Command::Rotate { store, id, overlap } => {
            let Some((key, record)) = store.open_existing().await?.rotate(&id, overlap).await? else {
                bail!("there is no key {id} to rotate: unknown, expired or revoked");
            };
            eprintln!("key {} for {}: it is shown this once", record.id, record.subject);
            println!("{key}");
        }
        Command::Revoke { store, id } => {
            if !store.open_existing().await?.revoke(&id).await? {
                bail!("there is no key {id} to revoke: unknown, or revoked before");
            }
            eprintln!("key {id} is revoked");
        }
    }
    Ok(())
}

async fn all(keys: &ApiKeys) -> Result<Vec<Record>> {
    let (mut all, mut listing) = (Vec::new(), Listing::default());
    loop {
        let page = keys.list(&listing).await?;
        let Some(last) = page.last() else { return Ok(all) };
        listing.after = Some(Position { created: last.created, id: last.id.clone() });
        all.extend(page);
    }
}

const HEADS: [&str; 9] = ["ID", "SUBJECT", "TENANT", "PLAN", "CREATED", "EXPIRES", "REVOKED", "LAST USED", "SCOPES"];

fn list(records: &[Record]) {
    let rows: Vec<[String; 9]> = std::iter::once(HEADS.map(str::to_owned)).chain(records.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

fn row(record: &Record) -> [String; 9] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let time = |seconds: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    let moment = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), time);
    [
        record.id.clone(),
        record.subject.clone(),
        or_dash(&record.tenant),
        or_dash(&record.plan),
        time(record.created),
        moment(record.expires),
        moment(record.revoked),
        moment(record.last_used),
        record.scopes.to_string(),
    ]
}
