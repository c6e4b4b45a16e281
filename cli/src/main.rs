//! `nearfield`: the command line. Everything it does is in the library.

use std::process::ExitCode;

use clap::Parser;
use nearfield_cli::Command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // pingora would make another provider the process's own.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(command.run());
        // A file that is being read on a blocking thread must not hold up the exit.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nearfield: {error:#}");
            ExitCode::FAILURE
        }
    }
}
