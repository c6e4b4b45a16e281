//! Backups in object storage: a local directory, S3 or Google Cloud Storage.
//!
//! A backup is a checkpoint's files and the piece of log that makes them one moment's state. Files are cut into chunks
//! that are named by their hash, so a chunk that is there is never sent again, an interrupted backup goes on where it
//! was, and whatever comes back is verified by its name. What belongs together is named by `backups/<id>.json`, which
//! is written last. Between backups the log is shipped in pieces (see [`archive`]), so a restore can go to any moment.
//!
//! | object | what |
//! | --- | --- |
//! | `chunks/<2 digits>/<BLAKE3>` | 8 MiB of a file, or what is left of it |
//! | `backups/<time>-<node>.json` | one backup: its files, the chunks of each, and where in the log it is |
//! | `log/<node>/<first>-<last>-<BLAKE3>` | records of an instance's log |

pub mod archive;
pub mod arriving;
pub mod create;
pub mod manifest;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod running;
pub mod schedule;

mod coming;
mod placing;

use std::io;
use std::path::PathBuf;

pub use manifest::Backup;
pub use repository::Repository;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} names no object storage: give s3://bucket/prefix, gs://bucket/prefix or an absolute path")]
    Url(String),
    #[error("{doing} {object} in the object storage")]
    Store { doing: &'static str, object: String, source: object_store::Error },
    #[error("the object {0} is not what was stored under that name")]
    Damaged(String),
    #[error("the backup {id} has format {found}, this searchd reads {}", manifest::FORMAT)]
    Format { id: String, found: u32 },
    #[error("there is no backup {0}")]
    NoBackup(String),
    #[error("there is no backup from which {0} can be reached")]
    Unreachable(String),
    #[error("the log in the archive ends before {wanted}: its last record is {last}")]
    LogEnds { wanted: String, last: u64 },
    #[error("{doing} {}", .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the directory {} is not empty: a backup is restored into an empty one", .0.display())]
    NotEmpty(PathBuf),
    #[error(transparent)]
    Node(#[from] crate::node::Error),
    #[error(transparent)]
    Log(#[from] crate::wal::Error),
    #[error("writing the restored log")]
    Append(#[from] crate::wal::AppendError),
    #[error("making a snapshot")]
    Snapshot(#[from] crate::checkpoint::Error),
    #[error("searchd is shutting down")]
    Stopped,
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)
}
