//! The one thread that writes the audit log: what waits goes down together, with one sync.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fs_err::File;
use tokio::sync::mpsc;

use super::chain::{self, Link};
use super::{Queued, files};

/// Acts that share a sync.
const BATCH: usize = 256;

pub(super) struct Writer {
    directory: PathBuf,
    /// Held while something is written: a gateway that drains and the one that follows it write one chain.
    lock: std::fs::File,
    file_bytes: u64,
    max_files: usize,
    /// The oldest first; the last one is being written.
    files: VecDeque<PathBuf>,
    current: Option<Current>,
    last: Link,
}

struct Current {
    file: File,
    /// Bytes that are known to be whole lines on disk.
    length: u64,
}

impl Writer {
    pub(super) fn open(directory: &Path, file_bytes: u64, max_files: usize) -> io::Result<Self> {
        fs_err::create_dir_all(directory)?;
        let files: VecDeque<PathBuf> = files::list(directory)?.into();
        let mut options = fs_err::OpenOptions::new();
        options.append(true).create(true).options_mut().mode(0o600);
        let lock = options.open(directory.join("lock"))?.into_file();
        lock.lock()?;
        let mut writer = Self {
            directory: directory.to_owned(),
            lock,
            file_bytes,
            max_files: max_files.max(1),
            files,
            current: None,
            last: Link::default(),
        };
        writer.recover()?;
        writer.lock.unlock()?;
        Ok(writer)
    }

    /// Has another process written since this one did?
    fn is_behind(&self) -> io::Result<bool> {
        let newest = files::list(&self.directory)?.pop();
        let grown = |current: &Current| Ok::<_, io::Error>(current.file.metadata()?.len() != current.length);
        Ok(newest.as_ref() != self.files.back() || self.current.as_ref().map_or(Ok(false), grown)?)
    }

    /// Finds the end of the chain, and goes on in the file that holds it.
    fn recover(&mut self) -> io::Result<()> {
        for path in self.files.clone().into_iter().rev() {
            let bytes = fs_err::read(&path)?;
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let text = String::from_utf8_lossy(&bytes[..whole]);
            let last = text.lines().next_back().map(chain::check);
            if self.current.is_none() {
                let file = open(&path)?;
                // A crash in the middle of a line: nobody was told that it is there.
                file.set_len(whole as u64)?;
                self.current = Some(Current { file, length: whole as u64 });
            }
            match last {
                None => {}
                Some(Some((link, _))) => {
                    self.last = link;
                    return Ok(());
                }
                Some(None) => {
                    let why = format!("{}: the last line is not what was written", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            }
        }
        Ok(())
    }

    /// Until the last handle is gone.
    pub(super) fn run(mut self, mut queued: mpsc::Receiver<Queued>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queued.blocking_recv_many(&mut batch, BATCH) > 0 {
            let outcome = self.write(&batch);
            for (one, i) in batch.drain(..).zip(0..) {
                let told = outcome.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()));
                // Whoever asked may have left.
                let _ = one.done.send(told.map(|hashes| hashes[i].clone()));
            }
        }
    }

    /// Writes `batch` down behind what others wrote. Gives the hash of each of its acts.
    fn write(&mut self, batch: &[Queued]) -> io::Result<Vec<String>> {
        self.lock.lock()?;
        let written = self.write_locked(batch);
        self.lock.unlock()?;
        written
    }

    fn write_locked(&mut self, batch: &[Queued]) -> io::Result<Vec<String>> {
        if self.is_behind()? {
            self.files = files::list(&self.directory)?.into();
            (self.current, self.last) = (None, Link::default());
            self.recover()?;
        }
        let (mut lines, mut hashes) = (String::new(), Vec::with_capacity(batch.len()));
        let (mut last, mut rest) = (self.last.clone(), batch.iter().peekable());
        while let Some(one) = rest.next() {
            let time = humantime::format_rfc3339_micros(one.at).to_string();
            let (line, link) = chain::line(&one.act, &time, &last);
            lines.push_str(&line);
            hashes.push(link.hash.clone());
            last = link;
            let length = self.current.as_ref().map_or(0, |current| current.length) + lines.len() as u64;
            if length >= self.file_bytes || rest.peek().is_none() {
                self.append(&lines)?;
                self.last = last.clone();
                lines.clear();
            }
        }
        Ok(hashes)
    }

    fn append(&mut self, lines: &str) -> io::Result<()> {
        if self.current.as_ref().is_none_or(|current| current.length >= self.file_bytes) {
            self.begin()?;
        }
        let Some(current) = &mut self.current else { return Err(io::ErrorKind::NotFound.into()) };
        let written = current.file.write_all(lines.as_bytes()).and_then(|()| current.file.sync_data());
        match written {
            Ok(()) => current.length += lines.len() as u64,
            // Half of a line would make the next one unreadable.
            Err(_) => current.file.set_len(current.length)?,
        }
        written
    }

    /// Begins a file, and lets those go that are too many.
    fn begin(&mut self) -> io::Result<()> {
        let path = files::path(&self.directory, self.last.seq + 1);
        let file = open(&path)?;
        let length = file.metadata()?.len();
        File::open(&self.directory)?.sync_all()?;
        self.current = Some(Current { file, length });
        if self.files.back() != Some(&path) {
            self.files.push_back(path);
        }
        while self.files.len() > self.max_files
            && let Some(oldest) = self.files.pop_front()
        {
            fs_err::remove_file(oldest)?;
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = fs_err::OpenOptions::new();
    options.append(true).create(true);
    options.options_mut().mode(0o600);
    options.open(path)
}
