//! The `searchd` process: settings, start, one line when ready, drain on SIGTERM; and the commands of its operator.

mod operator;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use nearfield_searchd::{Config, Searchd};
use nearfield_telemetry::otlp::Identity;
use nearfield_telemetry::{logging, settings};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stores vectors durably and finds the nearest of them, over gRPC.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<operator::Command>,
    /// The settings file; without it every setting has its default.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Only check the settings: exit 0 when they are right, 1 when not.
    #[arg(long)]
    check: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let config: Config = settings::load(arguments.config.as_deref())?;
    logging::check(&config.log)?;
    config.check()?;
    if arguments.check {
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    match arguments.command {
        Some(command) => runtime.block_on(operator::run(command, &config)),
        None => runtime.block_on(run(config)),
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let identity =
        Identity { service: "searchd", region: config.server.region.clone(), instance: config.server.instance.clone() };
    let guard = logging::start(&config.log, &config.otlp, &identity)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let searchd = Searchd::start(config).await?;
    let (grpc, admin) = (searchd.grpc_addr(), searchd.admin_addr());
    println!("ready {{\"grpc\":\"http://{grpc}\",\"admin\":\"http://{admin}\"}}");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    searchd.shutdown().await;
    guard.finish().await;
    Ok(())
}
