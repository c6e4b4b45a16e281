//! An insert of any length that is under way: only the process that it began in can finish it.

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::channel::mpsc;
use serde_json::{Value, json};

use crate::client::{Answer, Client};

pub struct Upload {
    lines: mpsc::UnboundedSender<std::io::Result<Bytes>>,
    answer: tokio::task::JoinHandle<Result<Answer>>,
}

impl Upload {
    /// Into `collection`, whose points have four numbers, on a connection of its own.
    pub fn start(client: &Client, collection: &str) -> Self {
        let (lines, body) = mpsc::unbounded();
        let request = client.separate().post(&format!("/api/v1/insert?collection={collection}"));
        let request = request.header("content-type", "application/x-ndjson").stream(body);
        Self { lines, answer: tokio::spawn(request.send()) }
    }

    /// Sends a point.
    ///
    /// # Errors
    /// When the upload has ended.
    pub fn line(&self, id: &str) -> Result<()> {
        let line = json!({"id": id, "values": [1, 2, 3, 4]});
        self.lines.unbounded_send(Ok(format!("{line}\n").into())).context("the upload has ended early")
    }

    /// Ends it, and gives what it is told.
    ///
    /// # Errors
    /// When it was broken off, or refused.
    pub async fn finish(self) -> Result<Value> {
        drop(self.lines);
        self.answer.await??.expect(200)
    }
}
