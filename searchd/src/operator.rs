//! `searchd backup …`: what operators do with backups, on the settings of the searchd whose they are.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use nearfield_proto::admin::v1::CreateBackupRequest;
use nearfield_proto::admin::v1::backups_client::BackupsClient;
use nearfield_searchd::Config;
use nearfield_searchd::backup::restore::{Until, Wanted, restore};
use nearfield_searchd::backup::retention::{GRACE, Keep, prune};
use nearfield_searchd::backup::{Backup, Repository, manifest};
use nearfield_searchd::engine::vector_clock::VectorClock;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Makes, lists, checks and restores backups in object storage
    #[command(subcommand)]
    Backup(Backups),
}

#[derive(clap::Subcommand)]
pub(crate) enum Backups {
    /// Has the running searchd make a backup now
    Create {
        /// Its gRPC address, instead of `[server] listen`
        #[arg(long, value_name = "URL")]
        server: Option<String>,
    },
    /// Lists the backups, oldest first
    List {
        #[command(flatten)]
        storage: Storage,
    },
    /// Fetches a backup, or all of them, and checks every byte
    Verify {
        #[command(flatten)]
        storage: Storage,
        /// As `backup list` shows it
        id: Option<String>,
    },
    /// Removes backups past their time (`[archive] keep`, `keep_for`) and what none of the others needs
    Prune {
        #[command(flatten)]
        storage: Storage,
    },
    /// Restores into the data directory, which must be empty: the latest moment unless told otherwise
    Restore {
        #[command(flatten)]
        storage: Storage,
        /// From this backup, as `backup list` shows it
        #[arg(long)]
        backup: Option<String>,
        #[command(flatten)]
        until: Moment,
    },
}

/// Where the backups are.
#[derive(clap::Args)]
pub(crate) struct Storage {
    /// Instead of `[archive] url`: s3://bucket/prefix, gs://bucket/prefix or an absolute path
    #[arg(long)]
    url: Option<String>,
}

/// Up to where a restore goes.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(crate) struct Moment {
    /// What was written up to then, such as 2026-11-22T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339)]
    at: Option<SystemTime>,
    /// Up to the writes of this session token
    #[arg(long, value_name = "TOKEN")]
    session: Option<String>,
    /// Up to this record of the log
    #[arg(long, value_name = "NUMBER")]
    record: Option<u64>,
    /// What the backup has, without the log after it
    #[arg(long)]
    backup_only: bool,
}

impl Storage {
    fn open(&self, config: &Config) -> anyhow::Result<Repository> {
        let url = self.url.as_deref().unwrap_or(&config.archive.url);
        if url.is_empty() {
            bail!("give --url, or set [archive] url");
        }
        Ok(Repository::open(url)?)
    }
}

impl Moment {
    fn until(&self) -> anyhow::Result<Until> {
        if let Some(time) = self.at {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).context("the time is before 1970")?;
            return Ok(Until::Time(since.as_nanos() as u64));
        }
        if let Some(token) = &self.session {
            return Ok(Until::Session(VectorClock::from_token(token).context("the --session")?));
        }
        Ok(match self.record {
            Some(number) => Until::Record(number),
            None if self.backup_only => Until::Backup,
            None => Until::Latest,
        })
    }
}

pub(crate) async fn run(command: Command, config: &Config) -> anyhow::Result<()> {
    let Command::Backup(command) = command;
    match command {
        Backups::Create { server } => create(server, config).await,
        Backups::List { storage } => list(&storage.open(config)?).await,
        Backups::Verify { storage, id } => verify(&storage.open(config)?, id).await,
        Backups::Prune { storage } => {
            let keep = Keep { newest: config.archive.keep, younger_than: config.archive.keep_for };
            let pruned = prune(&storage.open(config)?, keep, GRACE).await?;
            let (backups, chunks, pieces) = (pruned.backups, pruned.chunks, pruned.log_pieces);
            println!("removed {backups} backups, {chunks} chunks, {pieces} pieces of log");
            Ok(())
        }
        Backups::Restore { storage, backup, until } => {
            let wanted = Wanted {
                backup,
                until: until.until()?,
                concurrency: config.archive.concurrency,
                log_file_bytes: config.storage.log_file_bytes,
                lazily: false,
            };
            let restored = restore(&storage.open(config)?, &wanted, &config.storage.data_dir).await?;
            println!(
                "restored {} with {} records after it, up to record {}, into {}",
                restored.backup.id,
                restored.records,
                restored.last_record,
                config.storage.data_dir.display()
            );
            Ok(())
        }
    }
}

async fn create(server: Option<String>, config: &Config) -> anyhow::Result<()> {
    let server = server.unwrap_or_else(|| format!("http://{}", config.server.listen));
    let client = BackupsClient::connect(server.clone()).await;
    let mut client = client.with_context(|| format!("no searchd answers at {server}"))?;
    let created = client.create(CreateBackupRequest {}).await;
    let created = created.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner();
    println!("{}  {} bytes, {} of them sent", created.id, created.bytes, created.sent_bytes);
    Ok(())
}

async fn list(repository: &Repository) -> anyhow::Result<()> {
    println!("{:<38}  {:<24}  {:>14}  {:>12}", "ID", "COMPLETE AT", "BYTES", "NEXT RECORD");
    for id in manifest::ids(repository).await? {
        match Backup::load(repository, &id).await {
            Ok(backup) => {
                let finished = SystemTime::UNIX_EPOCH + Duration::from_nanos(backup.finished);
                let finished = humantime::format_rfc3339_millis(finished).to_string();
                println!("{id:<38}  {finished:<24}  {:>14}  {:>12}", backup.bytes(), backup.next_record);
            }
            Err(error) => println!("{id:<38}  {error}"),
        }
    }
    Ok(())
}

async fn verify(repository: &Repository, id: Option<String>) -> anyhow::Result<()> {
    let ids = match id {
        Some(id) => vec![id],
        None => manifest::ids(repository).await?,
    };
    for id in ids {
        let backup = Backup::load(repository, &id).await?;
        for file in &backup.files {
            let mut bytes = 0;
            for name in &file.chunks {
                bytes += repository.chunk(name).await.with_context(|| format!("{} of {id}", file.path))?.len() as u64;
            }
            if bytes != file.bytes {
                bail!("{} of {id} has {bytes} bytes instead of {}", file.path, file.bytes);
            }
        }
        println!("{id}  {} files, {} bytes: as they were stored", backup.files.len(), backup.bytes());
    }
    Ok(())
}
