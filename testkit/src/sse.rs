//! Server-sent events, read as a browser reads them (HTML standard, section 9.2).

use anyhow::{Context, Result};
use serde_json::Value;

use crate::client::{AnswerBody, StreamingAnswer};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SseEvent {
    /// The `data` of one event, its lines joined.
    Data(String),
    /// A line that begins with a colon.
    Comment(String),
}

pub struct SseReader {
    body: AnswerBody,
    buffer: Vec<u8>,
    data: Vec<String>,
}

impl SseReader {
    pub fn new(answer: StreamingAnswer) -> Self {
        Self { body: answer.body, buffer: Vec::new(), data: Vec::new() }
    }

    /// The next event or comment, none at the end.
    pub async fn next(&mut self) -> Result<Option<SseEvent>> {
        loop {
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8(line).context("events are UTF-8")?;
                if let Some(event) = self.line(line.trim_end_matches(['\r', '\n'])) {
                    return Ok(Some(event));
                }
            }
            match self.body.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return (!data.is_empty()).then(|| SseEvent::Data(data.join("\n")));
        }
        if let Some(comment) = line.strip_prefix(':') {
            return Some(SseEvent::Comment(comment.trim_start().to_owned()));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if field == "data" {
            self.data.push(value.strip_prefix(' ').unwrap_or(value).to_owned());
        }
        None
    }

    /// The next event's data as JSON, comments passed over.
    pub async fn json(&mut self) -> Result<Option<Value>> {
        loop {
            match self.next().await? {
                None => return Ok(None),
                Some(SseEvent::Comment(_)) => {}
                Some(SseEvent::Data(data)) => {
                    return Ok(Some(serde_json::from_str(&data).with_context(|| format!("not JSON: {data}"))?));
                }
            }
        }
    }

    /// Every event to the end of the stream.
    pub async fn all(mut self) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        while let Some(event) = self.json().await? {
            events.push(event);
        }
        Ok(events)
    }
}
