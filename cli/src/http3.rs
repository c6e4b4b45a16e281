//! One request over HTTP/3. Few curls can do that yet.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, Response};
use quinn::crypto::rustls::QuicClientConfig;
use reqwest::Url;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Of an answer.
const MAX_BODY_BYTES: usize = 64 << 20;

/// POSTs `body`; the whole answer.
pub(crate) async fn post(url: &Url, headers: &HeaderMap, body: Bytes, ca: &Path) -> Result<Response<Vec<u8>>> {
    let host = url.host_str().context("the URL names no host")?.trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(443);
    let address = tokio::net::lookup_host((host, port)).await?.next().context("the host has no address")?;
    let endpoint = endpoint(address, ca)?;
    let connection = endpoint.connect(address, host)?.await.with_context(|| format!("connecting to {address}/udp"))?;
    let (mut driver, mut sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    let driving = tokio::spawn(async move { std::future::poll_fn(|context| driver.poll_close(context)).await });

    let mut request = Request::post(url.as_str()).body(())?;
    request.headers_mut().extend(headers.clone());
    let mut stream = sender.send_request(request).await?;
    stream.send_data(body).await?;
    stream.finish().await?;
    let (parts, ()) = stream.recv_response().await?.into_parts();
    let mut body = Vec::new();
    while let Some(mut chunk) = stream.recv_data().await? {
        if body.len() + chunk.remaining() > MAX_BODY_BYTES {
            bail!("the answer is longer than {MAX_BODY_BYTES} bytes");
        }
        body.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
    }
    // With the last sender the connection ends by itself, properly closed.
    drop((stream, sender));
    let _ = driving.await;
    endpoint.wait_idle().await;
    Ok(Response::from_parts(parts, body))
}

fn endpoint(address: SocketAddr, ca: &Path) -> Result<quinn::Endpoint> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca).with_context(|| format!("reading {}", ca.display()))?;
    for certificate in certificates {
        roots.add(certificate?)?;
    }
    let mut tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let mut endpoint = quinn::Endpoint::client(local)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)));
    Ok(endpoint)
}
