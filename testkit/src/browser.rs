//! Chromium without a window, on a page of the test's own that posts what it found.

use std::convert::Infallible;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{KeyPair, PublicKeyData};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::process::Process;

/// How long the browser may take to start, and the page to report.
const PATIENCE: Duration = Duration::from_secs(60);

/// An origin of its own: `/` is the page, and what is posted to `/report` is its report.
pub struct Page {
    listener: Option<TcpListener>,
    origin: String,
}

impl Page {
    /// On a free port, answered from [`Browser::open`] on.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn bind() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://{}", listener.local_addr()?);
        Ok(Self { listener: Some(listener), origin })
    }

    /// As a browser names it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    fn serve(&mut self, html: String, reports: mpsc::UnboundedSender<Bytes>) {
        let Some(listener) = self.listener.take() else { return };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (html, reports) = (html.clone(), reports.clone());
                let service =
                    service_fn(move |request: Request<Incoming>| answer(request, html.clone(), reports.clone()));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    html: String,
    reports: mpsc::UnboundedSender<Bytes>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::POST
        && let Ok(report) = request.into_body().collect().await
    {
        // The test may have seen enough.
        let _gone = reports.send(report.to_bytes());
    }
    let mut response = Response::new(Full::new(html.into()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/html; charset=utf-8"));
    Ok(response)
}

/// Ends with its value.
pub struct Browser {
    process: Process,
    reports: mpsc::UnboundedReceiver<Bytes>,
    _profile: TempDir,
}

impl Browser {
    /// Opens `page` as `html`. Servers whose key is the one in the PEM file `key` are believed.
    ///
    /// # Errors
    /// When there is no Chromium.
    pub fn open(page: &mut Page, html: String, key: &Path) -> Result<Self> {
        let (sender, reports) = mpsc::unbounded_channel();
        page.serve(html, sender);
        let key = KeyPair::from_pem(&fs_err::read_to_string(key)?)?;
        let believed = STANDARD.encode(digest(&SHA256, &key.subject_public_key_info()));
        let profile = tempfile::tempdir()?;
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        // Nothing but what the page asks for.
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--disable-quic", &format!("--ignore-certificate-errors-spki-list={believed}")]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(page.origin());
        let process = Process::spawn("chromium", command).context("Chromium is needed: apt-get install chromium")?;
        Ok(Self { process, reports, _profile: profile })
    }

    /// What the page posts next.
    ///
    /// # Errors
    /// When nothing comes, or no JSON.
    pub async fn report(&mut self) -> Result<Value> {
        match tokio::time::timeout(PATIENCE, self.reports.recv()).await {
            Ok(Some(report)) => Ok(serde_json::from_slice(&report)?),
            _ => bail!("the page reported nothing:\n{}", self.process.tail(20)),
        }
    }
}
