//! The cache and the listeners in front of any plain HTTP origin, with a certificate made for the occasion.
//!
//! `cargo run --example http-cache -- --origin 127.0.0.1:8000` says in one line where it listens and which certificate is
//! to be trusted, then serves until it is interrupted.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use http::uri::Authority;
use nearfield_gateway::front::{Config, Front};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
struct Arguments {
    /// Host and port of the origin, which speaks HTTP/1.1.
    #[arg(long)]
    origin: Authority,
    /// Where to listen: TLS over TCP, and QUIC on the same number.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Threads that serve; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let (certificate, key) = (folder.path().join("leaf.pem"), folder.path().join("leaf-key.pem"));
    nearfield_gateway::listener::tls::install_provider();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    fs_err::write(&certificate, made.cert.pem())?;
    fs_err::write(&key, made.signing_key.serialize_pem())?;
    let mut config = Config { threads: arguments.threads, ..Config::default() };
    config.listener.https = vec![arguments.listen];
    (config.tls.certificate, config.tls.key) = (certificate.clone(), key);
    let front = Front::start(config, arguments.origin).await?;
    let ready = serde_json::json!({
        "https": format!("https://localhost:{}", front.addr().port()),
        "certificate": certificate,
    });
    println!("ready {ready}");
    tokio::signal::ctrl_c().await?;
    front.stop(Duration::from_secs(1)).await;
    Ok(())
}
