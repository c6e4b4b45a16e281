//! What a process's private port tells of it, over plain HTTP.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The text of `path` at `admin` ("http://127.0.0.1:9090"), asked for as `accept`.
///
/// # Errors
/// When nobody answers, or with anything but 200.
pub async fn page(admin: &str, path: &str, accept: &str) -> Result<String> {
    let authority = admin.strip_prefix("http://").context("a plain address")?;
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path).header("host", authority).header("accept", accept);
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    anyhow::ensure!(response.status() == 200, "{}", response.status());
    let text = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok(String::from_utf8(text.to_vec())?)
}

/// The value of one series, its labels as they stand in the text: `requests_total{outcome="ok"}`.
///
/// # Errors
/// As of [`page`], and when there is no such series.
pub async fn value(admin: &str, series: &str) -> Result<u64> {
    let text = page(admin, "/metrics", "*/*").await?;
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.with_context(|| format!("there is no {series}"))?.trim().parse().context("a whole number")
}
