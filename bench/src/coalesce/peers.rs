//! nginx and Varnish from Debian, told to ask once for equal questions.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nearfield_testkit::{Cluster, Process, free_port};

use crate::peers;

pub(super) struct Peers {
    _nginx: Process,
    pub(super) nginx_url: String,
    _varnish: Process,
    pub(super) varnish_url: String,
}

impl Peers {
    pub(super) fn start(directory: &Path, cluster: &Cluster, behind_nginx: &str, behind_varnish: &str) -> Result<Self> {
        let (certificate, key) = cluster.leaf();
        let (nginx_port, varnish_port) = (free_port()?, free_port()?);
        let http = format!(
            "server {{ listen 127.0.0.1:{nginx_port} ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};\n\
             location / {{ proxy_pass {behind_nginx}; proxy_cache answers; proxy_cache_lock on; }} }}",
            cert = certificate.display(),
            key = key.display(),
        );
        let nginx = peers::nginx(directory, &http, nginx_port)?;

        let upstream = behind_varnish.trim_start_matches("http://");
        let mut command = Command::new("varnishd");
        command.arg("-F").args(["-a", &format!("127.0.0.1:{varnish_port}")]).args(["-b", upstream]);
        command.arg("-n").arg(directory.join("varnish")).args(["-s", "malloc,64m"]);
        // A thread for each that waits, made beforehand.
        command.args(["-p", "thread_pool_min=300"]);
        let varnish = Process::spawn("varnishd", command).context("varnishd is needed: apt-get install varnish")?;
        peers::wait_open(&varnish, varnish_port)?;
        Ok(Self {
            _nginx: nginx,
            nginx_url: format!("https://127.0.0.1:{nginx_port}"),
            _varnish: varnish,
            varnish_url: format!("http://127.0.0.1:{varnish_port}"),
        })
    }
}
