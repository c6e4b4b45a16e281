//! `nearfield dev`: both tiers in one process, as a newcomer runs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{Client, Protocol};
use crate::credentials::{Claims, Signer};
use crate::process::{Process, binary};

const START: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct DevOptions {
    /// Leave the limits of production on.
    pub rate_limits: bool,
    pub demo: bool,
    /// `127.0.0.1:0` when absent.
    pub listen: Option<String>,
    /// Environment overrides, `NEARFIELD_…`.
    pub environment: Vec<(String, String)>,
}

pub struct Dev {
    process: Process,
    signer: Signer,
    data: Data,
}

/// Where the data is: ours to delete, or someone else's.
enum Data {
    Temporary(TempDir),
    Lent(PathBuf),
}

impl Data {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Lent(path) => path,
        }
    }
}

impl Dev {
    pub fn start(options: &DevOptions) -> Result<Self> {
        Self::start_with(Data::Temporary(tempfile::tempdir()?), options)
    }

    /// Over data that stays when this is dropped.
    pub fn start_over(data: &Path, options: &DevOptions) -> Result<Self> {
        Self::start_with(Data::Lent(data.to_owned()), options)
    }

    fn start_with(data: Data, options: &DevOptions) -> Result<Self> {
        crate::install_crypto_provider();
        let mut command = Command::new(binary("nearfield")?);
        command.arg("dev").args(["--admin", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]);
        command.args(["--listen", options.listen.as_deref().unwrap_or("127.0.0.1:0")]);
        command.arg("--data-dir").arg(data.path());
        if !options.rate_limits {
            command.args(["--rate-limit", "off"]);
        }
        if options.demo {
            command.arg("--demo");
        }
        command.envs(options.environment.iter().map(|(k, v)| (k, v)));
        let process = Process::start("nearfield dev", command, START)?;
        let auth = data.path().join("auth");
        let pem = fs_err::read_to_string(auth.join("dev-key.pem"))?;
        let jwks: Value = serde_json::from_slice(&fs_err::read(auth.join("jwks.json"))?)?;
        let kid = jwks["keys"][0]["kid"].as_str().map(str::to_owned);
        Ok(Self { process, signer: Signer::from_pem(&pem, kid)?, data })
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn https(&self) -> Result<String> {
        self.process.address("https")
    }

    pub fn admin(&self) -> Result<String> {
        self.process.address("admin")
    }

    pub fn grpc(&self) -> Result<String> {
        self.process.address("grpc")
    }

    pub fn ca(&self) -> PathBuf {
        self.data.path().join("tls/ca.pem")
    }

    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    pub fn token(&self, claims: &Claims) -> Result<String> {
        self.signer.token(claims)
    }

    /// A client without credentials.
    pub fn client(&self, protocol: Protocol) -> Result<Client> {
        Client::new(&self.https()?, Some(&self.ca()), protocol)
    }

    /// A client that carries a token with these claims.
    pub fn client_as(&self, protocol: Protocol, claims: &Claims) -> Result<Client> {
        Ok(self.client(protocol)?.with_bearer(&self.token(claims)?))
    }

    /// Runs `nearfield <arguments> --data-dir D` to its end and gives its standard output.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let data = self.data.path().to_str().context("a path in UTF-8")?;
        self.run(&[arguments, &["--data-dir", data]].concat())
    }

    /// Runs `nearfield <arguments>` to its end and gives its standard output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary("nearfield")?);
        command.args(arguments);
        let output = command.output().context("running nearfield")?;
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "nearfield {arguments:?} failed: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }
}
