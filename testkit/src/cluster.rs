//! The tiers as in production: a gateway process, several searchd processes, optionally Redis, joined by config files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::client::{Client, Protocol};
use crate::credentials::{AUDIENCE, Authority, Claims, ISSUER, KeyAlgorithm, TestCa};
use crate::metrics;
use crate::process::{Process, binary, free_port};
use crate::redis::Redis;

const START: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub searchds: usize,
    pub redis: bool,
    pub rate_limits: bool,
    /// A Redis through which the gateway shares its quotas with others.
    pub quotas: Option<String>,
    /// Where both tiers export their spans, "http://address:port".
    pub otlp: Option<String>,
    /// What the gateway calls in place of searchds, each "http://address:port".
    pub upstreams: Vec<String>,
    /// The gateway's program, in place of the one that [`binary`] names.
    pub gateway_program: Option<PathBuf>,
    /// Environment overrides of the gateway, `NEARFIELD_<SECTION>__<KEY>`.
    pub gateway: Vec<(&'static str, &'static str)>,
    /// Environment overrides of each searchd.
    pub searchd: Vec<(&'static str, &'static str)>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            searchds: 2,
            redis: false,
            rate_limits: false,
            upstreams: Vec::new(),
            quotas: None,
            otlp: None,
            gateway_program: None,
            gateway: Vec::new(),
            searchd: Vec::new(),
        }
    }
}

pub struct Cluster {
    // Dropped in this order: the gateway drains while its searchds are there.
    gateway: Process,
    program: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
    searchds: Vec<Searchd>,
    pub redis: Option<Redis>,
    authority: Authority,
    ca: TestCa,
    directory: TempDir,
}

struct Searchd {
    process: Process,
    config: PathBuf,
    port: u16,
    environment: Vec<(&'static str, &'static str)>,
}

impl Cluster {
    pub fn start(options: &ClusterOptions) -> Result<Self> {
        crate::install_crypto_provider();
        let directory = tempfile::tempdir()?;
        let ca = TestCa::create(directory.path())?;
        let authority = Authority::create(directory.path())?;
        let redis = options.redis.then(Redis::start).transpose()?;
        // Peers name each other in their config files, so their ports are chosen before they start.
        let ports = (0..options.searchds).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let searchds = (0..options.searchds)
            .map(|i| Self::start_searchd(i, &ports, options, &directory))
            .collect::<Result<Vec<_>>>()?;
        let config = gateway_config(options, &ports, &ca, &authority, redis.as_ref(), &directory);
        let file = directory.path().join("gateway.toml");
        fs_err::write(&file, config)?;
        let environment = options.gateway.clone();
        let program = options.gateway_program.clone().map_or_else(|| binary("gateway"), Ok)?;
        let gateway = Self::run_gateway(&program, &file, &environment, &[])?;
        Ok(Self { gateway, program, environment, searchds, redis, authority, ca, directory })
    }

    fn run_gateway(
        program: &Path,
        config: &Path,
        environment: &[(&'static str, &'static str)],
        also: &[&str],
    ) -> Result<Process> {
        let mut command = Command::new(program);
        command.arg("--config").arg(config).args(also).envs(environment.iter().copied());
        Process::start("gateway", command, START)
    }

    /// Starts a gateway that takes over from the one that runs, and gives that one, which drains.
    pub fn upgrade_gateway(&mut self) -> Result<Process> {
        let newer = Self::run_gateway(&self.program, &self.gateway_config(), &self.environment, &["--upgrade"])?;
        Ok(std::mem::replace(&mut self.gateway, newer))
    }

    /// The file that the gateway's settings are read from.
    pub fn gateway_config(&self) -> PathBuf {
        self.directory.path().join("gateway.toml")
    }

    /// Puts a new certificate in the place of the gateway's.
    pub fn renew_certificate(&self, algorithm: KeyAlgorithm) -> Result<()> {
        self.ca.renew(algorithm)
    }

    fn start_searchd(i: usize, ports: &[u16], options: &ClusterOptions, directory: &TempDir) -> Result<Searchd> {
        let port = ports[i];
        let peers: Vec<String> =
            ports.iter().filter(|p| **p != port).map(|p| format!("\"http://127.0.0.1:{p}\"")).collect();
        let data = directory.path().join(format!("searchd-{i}"));
        let mut config = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\nadmin = \"127.0.0.1:0\"\nregion = \"us-central1\"\n\
             instance = \"searchd-{i}\"\n\n[storage]\ndata_dir = {data:?}\n\n[replication]\npeers = [{}]\n",
            peers.join(", ")
        );
        if let Some(endpoint) = &options.otlp {
            let _ = write!(config, "\n[otlp]\nendpoint = {endpoint:?}\n");
        }
        let file = directory.path().join(format!("searchd-{i}.toml"));
        fs_err::write(&file, config)?;
        let environment = options.searchd.clone();
        let process = Self::run_searchd(i, &file, &environment)?;
        Ok(Searchd { process, config: file, port, environment })
    }

    fn run_searchd(i: usize, config: &Path, environment: &[(&'static str, &'static str)]) -> Result<Process> {
        let mut command = Command::new(binary("searchd")?);
        command.arg("--config").arg(config).envs(environment.iter().copied());
        Process::start(&format!("searchd-{i}"), command, START)
    }

    /// What the gateway was started from.
    pub fn gateway_program(&self) -> &Path {
        &self.program
    }

    pub fn gateway(&self) -> &Process {
        &self.gateway
    }

    pub fn searchd(&self, i: usize) -> &Process {
        &self.searchds[i].process
    }

    pub fn searchd_url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.searchds[i].port)
    }

    /// kill -9.
    pub fn kill_searchd(&self, i: usize) -> Result<()> {
        self.searchds[i].process.kill()
    }

    /// kill -9, and starts it again: on a new port, over whatever it left.
    pub fn restart_gateway(&mut self) -> Result<()> {
        self.gateway.kill()?;
        self.gateway = Self::run_gateway(&self.program, &self.gateway_config(), &self.environment, &[])?;
        Ok(())
    }

    /// Starts a searchd that has ended over its old data, on its old port.
    pub fn restart_searchd(&mut self, i: usize) -> Result<()> {
        let searchd = self.searchds.get_mut(i).context("such a searchd")?;
        searchd.process.kill()?;
        searchd.process = Self::run_searchd(i, &searchd.config, &searchd.environment)?;
        Ok(())
    }

    pub fn https(&self) -> Result<String> {
        self.gateway.address("https")
    }

    pub fn admin(&self) -> Result<String> {
        self.gateway.address("admin")
    }

    /// The value of one of the gateway's series, by [`metrics::value`].
    pub async fn gateway_metric(&self, series: &str) -> Result<u64> {
        metrics::value(&self.admin()?, series).await
    }

    pub fn ca(&self) -> PathBuf {
        self.ca.ca.clone()
    }

    /// The certificate and the key of the gateway.
    pub fn leaf(&self) -> (PathBuf, PathBuf) {
        (self.ca.leaf.clone(), self.ca.leaf_key.clone())
    }

    /// Of the issuer of tokens, PEM.
    pub fn public_key(&self) -> PathBuf {
        self.authority.public_key.clone()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn token(&self, claims: &Claims) -> Result<String> {
        self.authority.signer.token(claims)
    }

    /// Without credentials.
    pub fn client(&self, protocol: Protocol) -> Result<Client> {
        Client::new(&self.https()?, Some(&self.ca.ca), protocol)
    }

    pub fn client_as(&self, protocol: Protocol, claims: &Claims) -> Result<Client> {
        Ok(self.client(protocol)?.with_bearer(&self.token(claims)?))
    }
}

fn gateway_config(
    options: &ClusterOptions,
    ports: &[u16],
    ca: &TestCa,
    authority: &Authority,
    redis: Option<&Redis>,
    directory: &TempDir,
) -> String {
    let searchds = ports.iter().map(|port| format!("http://127.0.0.1:{port}"));
    let endpoints: Vec<String> =
        searchds.chain(options.upstreams.iter().cloned()).map(|url| format!("{url:?}")).collect();
    let mut config = String::new();
    // No pressure: tests share the machine, and what it is short of says nothing of the gateway.
    let _ = write!(
        config,
        "[server]\nregion = \"us-central1\"\ninstance = \"gateway-0\"\nupgrade_socket = {:?}\n\n\
         [listener]\nhttps = [\"127.0.0.1:0\"]\nadmin = \"127.0.0.1:0\"\n\n\
         [tls]\ncertificate = {:?}\nkey = {:?}\n\n\
         [auth]\napi_keys = {:?}\n[[auth.issuers]]\nissuer = \"{ISSUER}\"\naudience = \"{AUDIENCE}\"\n\
         jwks_file = {:?}\nalgorithms = [\"ES256\"]\n\n\
         [rate_limit]\nenabled = {}\n{}\n[shed.pressure]\nenabled = false\n\n\
         [upstream]\nendpoints = [{}]\n",
        directory.path().join("upgrade.sock"),
        ca.leaf,
        ca.leaf_key,
        directory.path().join("keys.db"),
        authority.jwks,
        options.rate_limits,
        options.quotas.as_ref().map_or_else(String::new, |url| format!("redis_url = {url:?}\n")),
        endpoints.join(", "),
    );
    if let Some(endpoint) = &options.otlp {
        let _ = write!(config, "\n[otlp]\nendpoint = {endpoint:?}\n");
    }
    if let Some(redis) = redis {
        let _ = write!(config, "\n[cache]\nredis_url = \"{}\"\n", redis.url());
    }
    config
}
