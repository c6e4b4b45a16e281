//! Servers from Debian that the gateway is measured beside.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nearfield_testkit::Process;

/// What a peer is given to start.
pub(crate) const START: Duration = Duration::from_secs(10);
/// Of one nginx, those to what is behind it included.
const NGINX_CONNECTIONS: usize = 4096;

/// nginx with one worker, which keeps everything in `directory`. `http` is what its block of that name holds, the last port
/// of which is `port`.
pub(crate) fn nginx(directory: &Path, http: &str, port: u16) -> Result<Process> {
    let config = format!(
        "master_process off; daemon off; pid {dir}/nginx.pid; error_log stderr warn;\n\
         events {{ worker_connections {NGINX_CONNECTIONS}; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;\n\
         fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         proxy_cache_path {dir}/cache keys_zone=answers:10m;\n\
         {http} }}\n",
        dir = directory.display(),
    );
    let file = directory.join("nginx.conf");
    fs_err::write(&file, config)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).arg("-e").arg("stderr");
    let nginx = Process::spawn("nginx", command).context("nginx is needed: apt-get install nginx-core")?;
    wait_open(&nginx, port)?;
    Ok(nginx)
}

/// Waits until `process` listens on a port of 127.0.0.1.
pub(crate) fn wait_open(process: &Process, port: u16) -> Result<()> {
    let end = Instant::now() + START;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if !process.is_running() || Instant::now() > end {
            bail!("port {port} does not open:\n{}", process.tail(20));
        }
        std::thread::yield_now();
    }
    Ok(())
}
