//! nginx and Varnish from Debian, told to ask once for equal questions.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nearfield_testkit::{Cluster, Process, free_port};

use crate::edge::wait_open;

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
        let config = format!(
            "master_process off; daemon off; pid {dir}/nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;\n\
             fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
             proxy_cache_path {dir}/cache keys_zone=answers:10m;\n\
             server {{ listen 127.0.0.1:{nginx_port} ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};\n\
               location / {{ proxy_pass {behind_nginx}; proxy_cache answers; proxy_cache_lock on; }} }} }}\n",
            dir = directory.display(),
            cert = certificate.display(),
            key = key.display(),
        );
        let file = directory.join("nginx.conf");
        fs_err::write(&file, config)?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file).arg("-e").arg("stderr");
        let nginx = Process::spawn("nginx", command).context("nginx is needed: apt-get install nginx-core")?;
        wait_open(&nginx, nginx_port)?;

        let upstream = behind_varnish.trim_start_matches("http://");
        let mut command = Command::new("varnishd");
        command.arg("-F").args(["-a", &format!("127.0.0.1:{varnish_port}")]).args(["-b", upstream]);
        command.arg("-n").arg(directory.join("varnish")).args(["-s", "malloc,64m"]);
        // A thread for each that waits, made beforehand.
        command.args(["-p", "thread_pool_min=300"]);
        let varnish = Process::spawn("varnishd", command).context("varnishd is needed: apt-get install varnish")?;
        wait_open(&varnish, varnish_port)?;
        Ok(Self {
            _nginx: nginx,
            nginx_url: format!("https://127.0.0.1:{nginx_port}"),
            _varnish: varnish,
            varnish_url: format!("http://127.0.0.1:{varnish_port}"),
        })
    }
}
