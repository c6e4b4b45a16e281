//! The gateway's process: settings, logs, signals around [`Gateway`].

use std::ffi::c_char;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use nearfield_gateway::config::source::Source;
use nearfield_gateway::gateway::Gateway;
use nearfield_gateway::handover::{Door, Estate};
use nearfield_gateway::live;
use nearfield_telemetry::logging;
use nearfield_telemetry::otlp::Identity;
use tokio::signal::unix::{SignalKind, signal};

/// Connections come in storms, and end on other workers than they began on. In jemalloc a page is no thread's own, so what a
/// storm took goes back to the system whoever frees it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc before `main`; an environment variable of the same name has precedence. A thread of its own tells the
/// system of pages that have been free for some seconds, so that no request waits for it, and nothing is kept beyond that.
// SAFETY: it is what jemalloc declares under this name: a string that ends with a zero, or null.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: Option<&'static c_char> =
    unsafe { c"background_thread:true,dirty_decay_ms:5000,muzzy_decay_ms:0".as_ptr().as_ref() };

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
    /// Takes the sockets over from the process at `server.upgrade_socket`, which then drains.
    #[arg(long)]
    upgrade: bool,
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
    let source = Source::load(args.config.clone())?;
    let config = source.config();
    config.check()?;
    logging::check(&config.log)?;
    if args.check {
        Gateway::check(config)?;
        eprintln!("gateway: the settings are valid");
        return Ok(());
    }
    // Health, metrics and signals; requests run on the listener's own threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(source, args.upgrade))
}

async fn serve(mut source: Source, upgrade: bool) -> anyhow::Result<()> {
    let config = source.config().clone();
    let identity =
        Identity { service: "gateway", region: config.server.region.clone(), instance: config.server.instance.clone() };
    let guard = logging::start(&config.log, &config.otlp, &identity)?;
    let interval = config.server.reload_interval;
    // Registered before the ready line: a supervisor may signal as soon as it has read it.
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
    let socket = config.server.upgrade_socket.clone();
    let started = if upgrade { Gateway::take_over(config).await } else { Gateway::start(config).await };
    let mut gateway = started.context("starting")?;
    let door = socket.as_deref().map(Door::open).transpose()?;
    gateway.show_settings(source.values());
    let estate = gateway.take_estate();
    // A change of settings must not interrupt it.
    let mut handing = Box::pin(hand_over(door, estate));
    println!("ready {{\"https\":\"https://{}\",\"admin\":\"http://{}\"}}", gateway.https_addr(), gateway.admin_addr());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                reload(&gateway, &mut source, &guard).await;
                if let Err(error) = gateway.reload_certificate() {
                    tracing::warn!(error = &error as &dyn std::error::Error, "refused, keeping what was served");
                }
            }
            () = &mut handing => {
                gateway.leave_admin();
                break;
            }
            () = source.moved(interval) => reload(&gateway, &mut source, &guard).await,
        }
    }
    // The estate in it keeps listeners open, which would go on taking connections for nobody.
    drop(handing);
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

/// Ends when a newer process has taken over; never when none is waited for.
async fn hand_over(door: Option<Door>, estate: Option<Estate>) {
    match (door, estate) {
        (Some(door), Some(estate)) => estate.hand_over(&door).await,
        // It holds the sockets' duplicates until it is dropped.
        (_, _held) => std::future::pending().await,
    }
}

/// Reads the settings again and goes on with them, or, when something is wrong with them, with the old.
async fn reload(gateway: &Gateway, source: &mut Source, guard: &logging::Guard) {
    let read = match source.read().map_err(anyhow::Error::from).and_then(|read| {
        logging::check(&read.config.log)?;
        Ok(read)
    }) {
        Ok(read) => read,
        Err(error) => {
            gateway.note_refused_settings().await;
            return tracing::warn!(error = &*error as &dyn std::error::Error, "settings refused, keeping the old");
        }
    };
    if !read.changed.is_empty() {
        if let Err(error) = gateway.apply(read.config.clone(), &read.changed).await {
            return tracing::warn!(error = &error as &dyn std::error::Error, "settings refused, keeping the old");
        }
        if let Err(error) = guard.set_level(&read.config.log) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the log keeps its level");
        }
        tracing::info!(changed = ?read.changed.keys().collect::<Vec<_>>(), "settings applied");
    }
    let later = live::need_a_restart(&read.since_start).join(", ");
    if !later.is_empty() {
        tracing::warn!(keys = later, "these settings take effect with a restart");
    }
    source.applied(read);
    gateway.show_settings(source.values());
}
