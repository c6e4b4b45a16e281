//! `nearfield import`: a file's points into a collection, through the public API.
//!
//! One thread reads and encodes batches, a few are under way at once, and they are counted in order, so that the
//! checkpoint always names a prefix of the file that is stored. What lies behind it is sent again after an interruption;
//! inserting a point twice is inserting it once.

mod batch;
mod checkpoint;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::{Client, Problem, Target};
use crate::format::{self, Hints, Source};
use crate::progress::Progress;
use batch::{Batch, Batches};
use checkpoint::Checkpoint;

#[derive(clap::Args)]
pub struct Options {
    /// A .jsonl, .npy, .fvecs or .parquet file
    file: PathBuf,
    #[command(flatten)]
    into: Into,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    hints: Hints,
    /// Begins at the file's first point, whatever an interrupted import has done
    #[arg(long)]
    restart: bool,
    /// Where interrupted imports are remembered [default: $XDG_STATE_HOME/nearfield or ~/.local/state/nearfield]
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

/// The collection that is filled, and how.
#[derive(clap::Args, Clone)]
pub struct Into {
    /// The collection
    #[arg(long, default_value = "default")]
    collection: String,
    /// Creates the collection when it is not there
    #[arg(long)]
    create: bool,
    /// With --create: numbers a vector [default: those of the file's first]
    #[arg(long, requires = "create")]
    dimension: Option<usize>,
    /// With --create: cosine, dot or euclidean [default: the server's]
    #[arg(long, requires = "create")]
    metric: Option<String>,
    /// With --create: none, f16, bf16, int8, … [default: the server's]
    #[arg(long, requires = "create")]
    quantization: Option<String>,
    /// Points a request
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Requests at a time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
}

impl Into {
    /// A collection that is created with these settings and filled at the default pace.
    pub fn new(collection: &str, metric: &str) -> Self {
        Self {
            collection: collection.to_owned(),
            create: true,
            dimension: None,
            metric: Some(metric.to_owned()),
            quantization: None,
            batch: 500,
            parallel: 4,
        }
    }

    fn settings(&self, source: &dyn Source) -> Result<Value> {
        let dimension = self.dimension.or_else(|| source.dimension());
        let mut settings = json!({ "dimension": dimension.context("the file has no point: say --dimension")? });
        for (name, value) in [("metric", &self.metric), ("quantization", &self.quantization)] {
            if let Some(value) = value {
                settings[name] = json!(value);
            }
        }
        Ok(settings)
    }
}

pub async fn run(options: Options) -> Result<()> {
    let Options { file, into, target, hints, restart, state_dir } = options;
    let client = Client::new(&target)?;
    let path = file.clone();
    let mut source = tokio::task::spawn_blocking(move || format::open(&path, &hints)).await??;
    let stored = prepare(&client, &into, &*source).await?;

    let mut checkpoint = Checkpoint::open(state_dir, &file, target.url(), &into.collection)?;
    let done = if restart { 0 } else { checkpoint.points().min(stored.unwrap_or(0)) };
    if done > 0 {
        eprintln!("resuming behind the first {done} points of {}", file.display());
        source = tokio::task::spawn_blocking(move || source.skip(done).map(|()| source)).await??;
    }
    let summary = load(&client, &into, source, done, &mut |points| checkpoint.reach(points)).await?;
    checkpoint.finish()?;
    println!("{}: {summary}", into.collection);
    Ok(())
}

/// Sees that the collection is there and fits. The number of its points; None when we may not know.
pub async fn prepare(client: &Client, into: &Into, source: &dyn Source) -> Result<Option<u64>> {
    let path = format!("collections/{}", into.collection);
    let collection = match client.get(&path).await {
        Ok(collection) => collection,
        Err(error) => match Problem::of(&error).map(|problem| problem.status) {
            Some(404) if into.create => {
                let settings = Bytes::from(serde_json::to_vec(&into.settings(source)?)?);
                let created = client.send_json(Method::PUT, &path, settings).await;
                created.with_context(|| format!("creating the collection {:?}", into.collection))?
            }
            Some(404) => bail!("there is no collection {:?}: --create makes it", into.collection),
            // A token that may only write is enough to insert.
            Some(403) => return Ok(None),
            _ => return Err(error.context(format!("looking at the collection {:?}", into.collection))),
        },
    };
    if let (Some(has), Some(file)) = (collection["dimension"].as_u64(), source.dimension())
        && has != file as u64
    {
        bail!("the file's vectors have {file} numbers, those of the collection {:?} have {has}", into.collection);
    }
    Ok(collection["count"].as_u64())
}

/// Inserts what `source` still holds behind its first `done` points; tells `reached` how far the stored prefix goes.
/// Gives a summary.
pub async fn load(
    client: &Client,
    into: &Into,
    source: Box<dyn Source>,
    done: u64,
    reached: &mut (dyn FnMut(u64) -> Result<()> + Send),
) -> Result<String> {
    let parallel = usize::from(into.parallel);
    let (sender, batches) = mpsc::channel(parallel);
    let mut reader = Batches::new(source, &into.collection, into.batch as usize, done);
    let reading = tokio::task::spawn_blocking(move || {
        while let Some(batch) = reader.next()? {
            if sender.blocking_send(batch).is_err() {
                break;
            }
        }
        anyhow::Ok(())
    });
    let batches = stream::unfold(batches, async |mut batches| batches.recv().await.map(|batch| (batch, batches)));
    let mut progress = Progress::start(done);
    let mut points = done;
    let mut acknowledged = Box::pin(batches.map(|batch| insert(client, batch)).buffered(parallel));
    while let Some(batch) = acknowledged.try_next().await? {
        points += batch.points as u64;
        reached(points)?;
        progress.reach(points, batch.total);
    }
    drop(acknowledged);
    reading.await??;
    Ok(progress.finish())
}

async fn insert(client: &Client, mut batch: Batch) -> Result<Batch> {
    let body = std::mem::take(&mut batch.body);
    match client.send_json(Method::POST, "insert", body).await {
        Ok(_) => Ok(batch),
        Err(error) => match Problem::of(&error).map(|problem| batch.explain(problem)) {
            Some(explained) => Err(explained),
            None => Err(error),
        },
    }
}
