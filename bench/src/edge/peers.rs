//! nginx and HAProxy from Debian, each with one worker, in front of the same answer; and our cache without the API around it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nearfield_testkit::{Cluster, Process, free_port};

use crate::peers::{self, wait_open};

pub(crate) struct Peers {
    pub(crate) nginx: Process,
    pub(crate) nginx_url: String,
    pub(crate) front: Process,
    pub(crate) front_url: String,
    pub(crate) haproxy: Process,
    /// A cache hit alone.
    pub(crate) haproxy_plain: String,
    /// The same behind a token's check and a limit by address.
    pub(crate) haproxy_guarded: String,
}

impl Peers {
    pub(crate) fn start(directory: &Path, cluster: &Cluster, answer: &[u8]) -> Result<Self> {
        let (certificate, key) = cluster.leaf();
        let (origin_port, nginx_port) = (free_port()?, free_port()?);
        let root = directory.join("origin");
        fs_err::create_dir_all(&root)?;
        fs_err::write(root.join("answer.json"), answer)?;
        let http = format!(
            "server {{ listen 127.0.0.1:{origin_port}; root {root};\n\
               location / {{ default_type application/json; add_header Cache-Control max-age=3600; try_files /answer.json =404; }} }}\n\
             server {{ listen 127.0.0.1:{nginx_port} ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};\n\
               http2_max_requests 1000000000;\n\
               location / {{ proxy_pass http://127.0.0.1:{origin_port}; proxy_cache answers; proxy_cache_key $request_uri; }} }}",
            root = root.display(),
            cert = certificate.display(),
            key = key.display(),
        );
        let nginx = peers::nginx(directory, &http, nginx_port)?;
        let (front, front_url) = front(origin_port)?;

        let (plain, guarded) = (free_port()?, free_port()?);
        let bundle = directory.join("haproxy.pem");
        fs_err::write(&bundle, fs_err::read_to_string(&certificate)? + &fs_err::read_to_string(&key)?)?;
        let bind = |port: u16| format!("bind 127.0.0.1:{port} ssl crt {} alpn h2,http/1.1", bundle.display());
        let config = format!(
            "global\n nbthread 1\n maxconn 2000\ndefaults\n mode http\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n\
             cache answers\n total-max-size 16\n max-object-size 100000\n max-age 3600\n\
             backend origin\n server origin 127.0.0.1:{origin_port}\n\
             frontend plain\n {}\n http-request cache-use answers\n http-response cache-store answers\n default_backend origin\n\
             frontend guarded\n {}\n\
             stick-table type ip size 100k expire 30s store http_req_rate(1s)\n\
             http-request track-sc0 src\n http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 100000000 }}\n\
             http-request set-var(txn.bearer) http_auth_bearer\n\
             http-request deny deny_status 401 unless {{ var(txn.bearer),jwt_verify(ES256,\"{}\") 1 }}\n\
             http-request del-header authorization\n\
             http-request cache-use answers\n http-response cache-store answers\n default_backend origin\n",
            bind(plain),
            bind(guarded),
            cluster.public_key().display(),
        );
        let file = directory.join("haproxy.cfg");
        fs_err::write(&file, config)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        let haproxy = Process::spawn("haproxy", command).context("haproxy is needed: apt-get install haproxy")?;
        wait_open(&haproxy, guarded)?;
        let url = |port: u16| format!("https://127.0.0.1:{port}");
        Ok(Self {
            nginx,
            nginx_url: url(nginx_port),
            front,
            front_url,
            haproxy,
            haproxy_plain: url(plain),
            haproxy_guarded: url(guarded),
        })
    }
}

/// Our cache and listeners alone, in front of the same origin: without tokens, limits or anything else of the API.
fn front(origin: u16) -> Result<(Process, String)> {
    let program = std::env::current_exe()?.with_file_name("examples").join("http-cache");
    let mut command = Command::new(&program);
    command.args(["--threads", "1", "--origin", &format!("127.0.0.1:{origin}")]);
    let hint = || format!("{} is needed: cargo build --release --workspace --examples", program.display());
    let front = Process::start("http-cache", command, peers::START).with_context(hint)?;
    let url = front.address("https")?;
    Ok((front, url))
}
