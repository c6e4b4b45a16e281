//! Speaks for fake-gcs-server what it lacks of Google's XML API: storing an object by PUT. That one request is said in
//! the JSON API's words; everything else is passed on as it is. A connection carries one request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// Between a client and the server; ends when dropped.
pub(super) struct Dialect {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Dialect {
    pub(super) fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let Ok(client) = client else { continue };
                // A client that went away is told nothing.
                std::thread::spawn(move || drop(answer(client, server)));
            }
        });
        Ok(Self { port, ended })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Dialect {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn answer(client: TcpStream, server: u16) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().context("a method")?, words.next().context("a target")?);
    let mut length = 0;
    let mut headers = format!("Host: 127.0.0.1:{server}\r\nConnection: close\r\n");
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "host" | "connection" => {}
            "content-length" => {
                length = value.parse()?;
                headers.push_str(&header);
            }
            _ => headers.push_str(&header),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let stored = (method == "PUT").then(|| target.trim_start_matches('/').split_once('/')).flatten();
    let request = match stored {
        Some((bucket, object)) => format!("POST /upload/storage/v1/b/{bucket}/o?uploadType=media&name={object}"),
        None => format!("{method} {target}"),
    };
    let mut upstream = TcpStream::connect(("127.0.0.1", server))?;
    upstream.write_all(format!("{request} HTTP/1.1\r\n{headers}\r\n").as_bytes())?;
    upstream.write_all(&body)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    let mut client = client;
    if stored.is_some() && answer.starts_with(b"HTTP/1.1 200") {
        client.write_all(stored_answer(&answer)?.as_bytes())?;
    } else {
        client.write_all(&answer)?;
    }
    Ok(())
}

/// What the XML API says of an object that was stored, from what the JSON API said.
fn stored_answer(answer: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(answer)?;
    let (start, end) = (text.find("\r\n\r\n{").context("a body")? + 4, text.rfind('}').context("a body")? + 1);
    let object: serde_json::Value = serde_json::from_str(&text[start..end])?;
    let field = |name: &str| object[name].as_str().unwrap_or_default().trim_matches('"').to_owned();
    Ok(format!(
        "HTTP/1.1 200 OK\r\nETag: \"{}\"\r\nx-goog-generation: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        field("etag"),
        field("generation")
    ))
}
