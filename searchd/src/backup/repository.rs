//! The object storage, under one prefix, whatever it is.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};

use super::manifest::File;
use super::{Error, blocking};

/// Bytes of a chunk; the last one of a file is smaller.
pub const CHUNK_BYTES: usize = 8 * 1024 * 1024;
/// Largest object that is read: a backup of 20 TiB has about so much to name.
const MAX_OBJECT_BYTES: u64 = 256 * 1024 * 1024;
/// A request that keeps failing is given up after that; whoever asked tries again later.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_RETRIES: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Clones share it.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    url: String,
}

impl Repository {
    /// `url` is `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///path` or an absolute path, whose directory is made.
    /// Credentials and endpoints come from the environment, as the providers' own tools have them: `AWS_*`, `GOOGLE_*`.
    pub fn open(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("file", url));
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let failed = |source| Error::Store { doing: "opening", object: url.to_owned(), source };
        let store: Arc<dyn ObjectStore> = match scheme {
            "s3" if !bucket.is_empty() => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry());
                let store = builder.build().map_err(failed)?;
                Arc::new(PrefixStore::new(store, prefix))
            }
            "gs" if !bucket.is_empty() => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry());
                let store = builder.build().map_err(failed)?;
                Arc::new(PrefixStore::new(store, prefix))
            }
            "file" if rest.starts_with('/') => {
                std::fs::create_dir_all(rest).map_err(|source| Error::Io {
                    doing: "making the directory",
                    path: rest.into(),
                    source,
                })?;
                Arc::new(LocalFileSystem::new_with_prefix(rest).map_err(failed)?.with_fsync(true))
            }
            _ => return Err(Error::Url(url.to_owned())),
        };
        Ok(Self { store, url: url.to_owned() })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn put(&self, object: &str, bytes: Bytes) -> Result<(), Error> {
        let outcome = self.store.put(&Path::from(object), bytes.into()).await;
        outcome.map(drop).map_err(|source| Error::Store { doing: "storing", object: object.to_owned(), source })
    }

    /// None when there is no such object.
    pub async fn get(&self, object: &str) -> Result<Option<Bytes>, Error> {
        let failed = |source| Error::Store { doing: "reading", object: object.to_owned(), source };
        let found = match self.store.get(&Path::from(object)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        if found.meta.size > MAX_OBJECT_BYTES {
            return Err(Error::Damaged(object.to_owned()));
        }
        found.bytes().await.map(Some).map_err(failed)
    }

    /// These bytes of a file, which are in one of its chunks; nothing tells yet that they are what they should be.
    pub async fn range(&self, file: &File, bytes: Range<u64>) -> Result<Bytes, Error> {
        let chunk = bytes.start / CHUNK_BYTES as u64;
        let object = chunk_object(file.chunks.get(chunk as usize).map_or("", String::as_str));
        let start = chunk * CHUNK_BYTES as u64;
        let found = self.store.get_range(&Path::from(object.as_str()), bytes.start - start..bytes.end - start).await;
        let found = found.map_err(|source| Error::Store { doing: "reading", object: object.clone(), source })?;
        if found.len() as u64 == bytes.end - bytes.start { Ok(found) } else { Err(Error::Damaged(object)) }
    }

    /// Everything in a folder and the folders in it; the paths begin with the folder's.
    pub async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>, Error> {
        let listing = self.store.list(Some(&Path::from(folder))).try_collect();
        listing.await.map_err(|source| Error::Store { doing: "listing", object: folder.to_owned(), source })
    }

    /// One that is gone already is fine.
    pub async fn delete(&self, object: &str) -> Result<(), Error> {
        match self.store.delete(&Path::from(object)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(Error::Store { doing: "deleting", object: object.to_owned(), source }),
        }
    }

    /// A chunk, which is what its name says.
    pub async fn chunk(&self, name: &str) -> Result<Bytes, Error> {
        let object = chunk_object(name);
        let bytes = self.get(&object).await?.ok_or_else(|| Error::NoBackup(object.clone()))?;
        let hashed = bytes.clone();
        let hash = blocking(move || blake3::hash(&hashed)).await?;
        if hash.to_hex().as_str() == name { Ok(bytes) } else { Err(Error::Damaged(object)) }
    }
}

/// Where a chunk is. `name` is its hash in hexadecimal.
pub fn chunk_object(name: &str) -> String {
    format!("{CHUNKS}/{}/{name}", name.get(..2).unwrap_or("00"))
}

pub const CHUNKS: &str = "chunks";

fn retry() -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    RetryConfig { backoff, max_retries: MAX_RETRIES, retry_timeout: RETRY_TIMEOUT }
}
