//! `nearfield export`: a collection's points into a file, or as JSON lines to standard output.
//!
//! The answer of `GET /api/v1/export` is read as it comes. A file appears under its name when it is whole.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use fs_err as fs;
use reqwest::Response;
use tokio::sync::mpsc;

use crate::client::{Client, Target};
use crate::format::{self, Point, Sink};
use crate::progress::Progress;

/// A point's line: a vector of the largest dimension and the largest metadata fit several times over.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Lines that may wait for the disk.
const WAITING_LINES: usize = 256;

#[derive(clap::Args)]
pub struct Options {
    /// A .jsonl, .npy, .fvecs or .parquet file; JSON lines to standard output without it. Beside .npy and .fvecs comes a
    /// .jsonl with the ids and metadata
    file: Option<PathBuf>,
    /// The collection
    #[arg(long, default_value = "default")]
    collection: String,
    /// Overwrites the file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    target: Target,
}

pub async fn run(options: Options) -> Result<()> {
    let client = Client::new(&options.target)?;
    let path = format!("collections/{}", options.collection);
    let described = client.get(&path).await.with_context(|| format!("looking at {:?}", options.collection))?;
    let answer = client.stream(&format!("export?collection={}", options.collection)).await?;
    match &options.file {
        None => copy(answer, format::stdout(), described["count"].as_u64()).await.map(drop),
        Some(file) => {
            let draft = Draft::begin(file, options.force)?;
            let summary = copy(answer, format::create(&draft.path())?, described["count"].as_u64()).await?;
            draft.publish()?;
            eprintln!("{}: {summary}", file.display());
            Ok(())
        }
    }
}

/// Writes every line of the answer; a summary.
async fn copy(mut answer: Response, mut sink: Box<dyn Sink>, total: Option<u64>) -> Result<String> {
    let (sender, mut lines) = mpsc::channel::<Bytes>(WAITING_LINES);
    let writing = tokio::task::spawn_blocking(move || {
        let mut progress = Progress::start(0);
        let mut points = 0;
        while let Some(line) = lines.blocking_recv() {
            let point = parse(&line)?;
            sink.write(&point)?;
            points += 1;
            progress.reach(points, total.map(|total| total.max(points)));
        }
        sink.finish()?;
        anyhow::Ok(progress.finish())
    });
    let received = receive(&mut answer, sender).await;
    let summary = writing.await??;
    received.map(|()| summary)
}

/// Cuts the answer into lines. Ends early when nobody takes them: the writer knows why.
async fn receive(answer: &mut Response, lines: mpsc::Sender<Bytes>) -> Result<()> {
    let mut rest = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.context("the answer broke off")? {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if lines.send(rest.split_to(end + 1).freeze()).await.is_err() {
                return Ok(());
            }
        }
        if rest.len() > MAX_LINE_BYTES {
            bail!("a line of the answer is longer than {MAX_LINE_BYTES} bytes");
        }
    }
    if !rest.is_empty() {
        // The writer says what is wrong with half a line.
        let _ = lines.send(rest.freeze()).await;
    }
    Ok(())
}

/// A point, or the problem that ended the answer early.
fn parse(line: &[u8]) -> Result<Point> {
    format::parse_line(line).map_err(|error| {
        let text = String::from_utf8_lossy(line);
        error.context(format!("the answer holds {:?}", text.trim_end().chars().take(300).collect::<String>()))
    })
}

/// Files under way, in a folder beside the place where they shall be.
struct Draft {
    folder: PathBuf,
    target: PathBuf,
}

impl Draft {
    fn begin(target: &Path, force: bool) -> Result<Self> {
        let name = target.file_name().with_context(|| format!("{} names no file", target.display()))?;
        if target.exists() && !force {
            bail!("{} is there already: --force overwrites it", target.display());
        }
        let folder = target.with_file_name(format!(".{}.part", name.to_string_lossy()));
        // What an interrupted export has left.
        let _ = std::fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, target: target.to_owned() })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(self.target.file_name().expect("begin() has seen it"))
    }

    /// Moves the files to their place, the main one last.
    fn publish(self) -> Result<()> {
        let main = self.path();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path != main {
                fs::rename(&path, self.target.with_file_name(path.file_name().expect("it is in a folder")))?;
            }
        }
        fs::rename(main, &self.target)?;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
