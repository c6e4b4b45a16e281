//! The gateway's process: settings, logs, signals around [`Gateway`].

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use nearfield_gateway::config::Config;
use nearfield_gateway::gateway::Gateway;
use nearfield_telemetry::otlp::Identity;
use nearfield_telemetry::{logging, settings};
use tokio::signal::unix::{SignalKind, signal};

/// Memory that a storm took goes back to the system afterwards.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Nearfield's edge: TLS, HTTP/1.1, HTTP/2, HTTP/3, gRPC and WebSocket in, searchd behind.
#[derive(Parser)]
#[command(name = "gateway", version)]
struct Args {
    /// The settings. Every key also has an environment variable: NEARFIELD_<SECTION>__<KEY>.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Reads and checks the settings and the files they name, then exits.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    // Before anything can open a TLS connection.
    nearfield_gateway::listener::tls::install_provider();
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not have been set up yet.
            eprintln!("gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let config: Config = settings::load(args.config.as_deref())?;
    config.check()?;
    logging::check(&config.log)?;
    if args.check {
        Gateway::check(&config)?;
        eprintln!("gateway: the settings are valid");
        return Ok(());
    }
    // Health, metrics and signals; requests run on the listener's own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let identity =
        Identity { service: "gateway", region: config.server.region.clone(), instance: config.server.instance.clone() };
    let guard = logging::start(&config.log, &config.otlp, &identity)?;
    // Registered before the ready line: a supervisor may signal as soon as it has read it.
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let gateway = Gateway::start(config).await.context("starting")?;
    println!("ready {{\"https\":\"https://{}\",\"admin\":\"http://{}\"}}", gateway.https_addr(), gateway.admin_addr());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if let Err(error) = gateway.reload_certificate() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "certificate refused, keeping the old");
                }
            }
        }
    }
    tracing::info!("draining");
    tokio::select! {
        finished = gateway.shutdown() => tracing::info!(finished, "drained"),
        // Whoever asks twice does not want to wait.
        _ = terminate.recv() => tracing::warn!("stopped without waiting for the drain"),
        _ = interrupt.recv() => tracing::warn!("stopped without waiting for the drain"),
    }
    guard.finish().await;
    Ok(())
}
