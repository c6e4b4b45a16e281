//! `nearfield dev`: one gateway and one searchd in one process. They talk gRPC over loopback as in production, and are
//! configured by what would be in their settings files.

mod certificates;
mod demo;
mod greeting;

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fs_err as fs;
use nearfield_auth::api_key::ApiKeys;
use nearfield_auth::dev::{self as dev_issuer, DevKey, Grant};
use nearfield_gateway::config::Config as GatewayConfig;
use nearfield_gateway::gateway::Gateway;
use nearfield_searchd::{Config as SearchdConfig, Searchd};
use nearfield_telemetry::otlp::Identity;
use nearfield_telemetry::{logging, settings};
use reqwest::Url;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::{Client, Target};
use crate::token::all_scopes;
use certificates::Certificates;
use greeting::Greeting;

/// How long the gateway may take to find its searchd well.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// Of the token that is printed.
const TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

#[derive(clap::Args)]
pub struct Options {
    /// HTTPS: HTTP/1.1, HTTP/2 and gRPC over TCP, HTTP/3 over UDP of the same number; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The gateway's health and metrics
    #[arg(long, default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// searchd's own port
    #[arg(long, default_value = "127.0.0.1:50051")]
    grpc: SocketAddr,
    /// Everything that is kept: points, keys, certificates
    #[arg(long, default_value = "./nearfield-data")]
    data_dir: PathBuf,
    /// Loads 5,000 pictures of clothes as the collection `fashion-mnist`
    #[arg(long)]
    demo: bool,
    /// Whether the limits of production hold; off is for benchmarks
    #[arg(long, value_enum, default_value = "on")]
    rate_limit: Switch,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    Off,
    On,
}

pub async fn run(options: Options) -> Result<()> {
    fs::create_dir_all(&options.data_dir)?;
    let data_dir = fs::canonicalize(&options.data_dir)?;
    let certificates = Certificates::ensure(&data_dir, options.listen.ip())?;
    let key = DevKey::load_or_create(&data_dir).context("opening the development key")?;
    ApiKeys::open(dev_issuer::api_keys_path(&data_dir)).await.context("opening the API keys")?;
    refuse_unknown_variables()?;

    let searchd_settings = searchd(&options, &data_dir).context("searchd's settings")?;
    let identity = Identity { service: "nearfield-dev", region: "local".to_owned(), instance: "dev".to_owned() };
    let logs = logging::start(&searchd_settings.log, &searchd_settings.otlp, &identity)?;
    // Before the ready line: whoever reads it may send a signal at once.
    let mut signals = Signals::listen()?;

    let searchd = Searchd::start(searchd_settings).await.context("starting searchd")?;
    let gateway_settings =
        gateway(&options, &data_dir, &certificates, searchd.grpc_addr()).context("gateway's settings")?;
    let gateway = Gateway::start(gateway_settings).await.context("starting the gateway")?;
    let greeting = Greeting {
        https: format!("https://{}", reachable(gateway.https_addr())),
        admin: format!("http://{}", reachable(gateway.admin_addr())),
        grpc: format!("http://{}", reachable(searchd.grpc_addr())),
        ca: certificates.ca,
        data_dir,
        token: token(&key)?,
        demo: options.demo,
    };
    let announced = tokio::select! {
        outcome = announce(&greeting) => outcome.map(|()| true),
        () = signals.next() => Ok(false),
    };
    if let Ok(true) = announced {
        signals.next().await;
        tracing::info!("draining");
    }
    tokio::select! {
        () = drain(gateway, searchd) => {}
        () = signals.next() => bail!("a second signal: left before everything was done"),
    }
    logs.finish().await;
    announced.map(drop)
}

/// Says what there is once it is there.
async fn announce(greeting: &Greeting) -> Result<()> {
    answers(&greeting.admin).await?;
    if greeting.demo {
        let url: Url = greeting.https.parse().context("an address is part of a URL")?;
        let target = Target::local(url, greeting.token.clone(), greeting.ca.clone());
        demo::load(&Client::new(&target)?).await.context("loading the demo collection")?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{greeting}\n{}", greeting.ready_line())?;
    Ok(out.flush()?)
}

/// Waits until the gateway would be given traffic.
async fn answers(admin: &str) -> Result<()> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build()?;
    let url = format!("{admin}/health/ready");
    let asked = tokio::time::timeout(PATIENCE, async {
        loop {
            if http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    });
    asked.await.with_context(|| format!("{url} was not well after {PATIENCE:?}"))
}

/// The gateway first: it holds what searchd has still to answer.
async fn drain(gateway: Gateway, searchd: Searchd) {
    gateway.shutdown().await;
    searchd.shutdown().await;
}

/// What searchd.toml would say.
fn searchd(options: &Options, data_dir: &Path) -> Result<SearchdConfig, settings::Error> {
    settings::compose(&json!({
        "server": { "listen": options.grpc, "admin": "127.0.0.1:0", "region": "local" },
        "storage": { "data_dir": data_dir.join("searchd") },
        "log": { "level": "warn", "format": "pretty" },
    }))
}

/// What gateway.toml would say.
fn gateway(
    options: &Options,
    data_dir: &Path,
    certificates: &Certificates,
    searchd: SocketAddr,
) -> Result<GatewayConfig, settings::Error> {
    settings::compose(&json!({
        "server": { "region": "local" },
        "listener": { "https": [options.listen], "admin": options.admin },
        "tls": { "certificate": certificates.leaf, "key": certificates.leaf_key },
        "auth": {
            "api_keys": dev_issuer::api_keys_path(data_dir),
            "issuers": [{
                "issuer": dev_issuer::ISSUER,
                "audience": dev_issuer::AUDIENCE,
                "algorithms": ["ES256"],
                "jwks_file": dev_issuer::jwks_path(data_dir),
                // Tokens are made and checked by one clock.
                "leeway": "0s",
            }],
        },
        "audit": { "directory": data_dir.join("audit") },
        "rate_limit": { "enabled": options.rate_limit == Switch::On },
        // The process is searchd too, which may take all the CPU that it likes to build an index.
        "shed": { "pressure": { "enabled": false } },
        "upstream": { "endpoints": [format!("http://{}", reachable(searchd))] },
        // A developer's machine stands for any region.
        "topology": { "residency": ["*"] },
        "log": { "level": "warn", "format": "pretty" },
    }))
}

fn refuse_unknown_variables() -> Result<()> {
    let unknown = settings::unknown_variables::<GatewayConfig, SearchdConfig>();
    if !unknown.is_empty() {
        bail!("neither gateway nor searchd has a setting for {}", unknown.join(", "));
    }
    Ok(())
}

fn token(key: &DevKey) -> Result<String> {
    let grant =
        Grant { subject: "developer".to_owned(), scopes: all_scopes(), tenant: None, plan: None, ttl: TOKEN_TTL };
    key.sign(&grant).context("signing a token")
}

/// An address to connect to: one that is all addresses is reached by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What asks the process to leave.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
