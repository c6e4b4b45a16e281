//! Notices that a file has changed, by its time and size, and has it taken in again.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_util::task::AbortOnDropHandle;

/// Calls `take` now, and on a thread for blocking work whenever the file at `path` has changed: looked at, and tried again
/// after a failure, every `interval`, until the handle is dropped. A later failure is logged once, and what was there
/// before stays.
///
/// # Errors
/// What the first `take` fails with.
pub(crate) fn start<E: Error + Send + 'static>(
    path: PathBuf,
    interval: Duration,
    take: impl Fn() -> Result<(), E> + Clone + Send + 'static,
) -> Result<AbortOnDropHandle<()>, E> {
    // Before it is read: a change in between is noticed with the first look.
    let mut seen = stamp(&path);
    take()?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        let mut complained = String::new();
        loop {
            tokio::time::sleep(interval).await;
            let now = stamp(&path);
            if now == seen {
                continue;
            }
            let take = take.clone();
            match tokio::task::spawn_blocking(move || take().map_err(|error| describe(&error))).await {
                Ok(Ok(())) => {
                    seen = now;
                    complained.clear();
                    tracing::info!(path = %path.display(), "read again");
                }
                Ok(Err(text)) if text != complained => {
                    tracing::warn!(path = %path.display(), error = text, "not taken, the old one stays");
                    complained = text;
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    })))
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// An error with what caused it.
fn describe(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
