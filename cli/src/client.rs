//! The public API over HTTPS, for the commands that move data: one connection setup, credentials, and retries.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use nearfield_auth::dev::{DevKey, Grant};
use reqwest::{Response, Url};
use serde::Deserialize;

use crate::token::all_scopes;

/// Tries of one request before its failure is final.
const MAX_TRIES: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(5);
/// A server that wants more patience than this had better be asked another day.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence in an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Of an error's body.
const MAX_PROBLEM_BYTES: usize = 1 << 20;
/// The token that the development key signs for one command.
const OWN_TOKEN_TTL: Duration = Duration::from_secs(12 * 3600);

/// Where the gateway is and who we are to it.
#[derive(clap::Args, Clone)]
pub struct Target {
    /// The gateway
    #[arg(long, env = "NEARFIELD_URL", default_value = "https://127.0.0.1:8443")]
    url: Url,
    /// A bearer token
    #[arg(long, env = "NEARFIELD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// An API key, instead of a token
    #[arg(long, env = "NEARFIELD_API_KEY", hide_env_values = true, conflicts_with = "token")]
    api_key: Option<String>,
    /// The authority that signed the gateway's certificate, in PEM
    #[arg(long, env = "NEARFIELD_CA")]
    ca: Option<PathBuf>,
    /// A development server's data: for a gateway on this machine, the authority and a token come from here when none
    /// are given
    #[arg(long, default_value = "./nearfield-data")]
    data_dir: PathBuf,
}

impl Target {
    /// A development server of this process.
    pub fn local(url: Url, token: String, ca: PathBuf) -> Self {
        Self { url, token: Some(token), api_key: None, ca: Some(ca), data_dir: PathBuf::new() }
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    fn is_local(&self) -> bool {
        match self.url.host_str() {
            Some("localhost") => true,
            Some(host) => host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            None => false,
        }
    }

    pub(crate) fn ca(&self) -> Option<PathBuf> {
        let own = || Some(self.data_dir.join("tls/ca.pem")).filter(|path| self.is_local() && path.exists());
        self.ca.clone().or_else(own)
    }

    pub(crate) fn credentials(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &self.api_key {
            headers.insert("x-api-key", secret(key).context("the API key cannot be in a header")?);
        } else if let Some(token) = self.token.clone().map_or_else(|| self.own_token(), |token| Ok(Some(token)))? {
            let bearer = secret(&format!("Bearer {token}")).context("the token cannot be in a header")?;
            headers.insert(AUTHORIZATION, bearer);
        }
        Ok(headers)
    }

    /// Signed with the development key, when there is one and the server is on this machine.
    fn own_token(&self) -> Result<Option<String>> {
        if !self.is_local() || !self.data_dir.join("auth/dev-key.pem").exists() {
            return Ok(None);
        }
        let key = DevKey::load_or_create(&self.data_dir).context("opening the development key")?;
        let grant = Grant {
            subject: "nearfield-cli".to_owned(),
            scopes: all_scopes(),
            tenant: None,
            plan: None,
            ttl: OWN_TOKEN_TTL,
        };
        Ok(Some(key.sign(&grant)?))
    }
}

fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What a gateway says of a request that it refuses (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub status: u16,
    pub title: String,
    pub detail: String,
    pub errors: Vec<ProblemItem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProblemItem {
    pub pointer: String,
    pub detail: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.title, self.detail)?;
        self.errors.iter().try_for_each(|item| write!(f, "; {}: {}", item.pointer, item.detail))
    }
}

impl std::error::Error for Problem {}

impl Problem {
    /// What `error` says of the request, if it is the server's word and not a failure on the way.
    pub fn of(error: &anyhow::Error) -> Option<&Self> {
        error.downcast_ref()
    }

    pub(crate) fn from_body(status: StatusCode, body: &[u8]) -> Self {
        let problem = serde_json::from_slice::<Self>(body).unwrap_or_else(|_| Self {
            title: status.canonical_reason().unwrap_or("no reason given").to_owned(),
            detail: String::from_utf8_lossy(body).chars().take(200).collect(),
            ..Self::default()
        });
        Self { status: status.as_u16(), ..problem }
    }
}

/// A gateway.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    pub fn new(target: &Target) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("nearfield-cli/", env!("CARGO_PKG_VERSION")))
            .default_headers(target.credentials()?)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if let Some(path) = target.ca() {
            let pem = fs_err::read(&path)?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| format!("reading certificates from {}", path.display()))?;
            builder = builder.tls_certs_only(authorities);
        }
        Ok(Self { http: builder.build().context("setting up TLS")?, base: Self::base(target)? })
    }

    /// What the paths of the API are relative to.
    pub(crate) fn base(target: &Target) -> Result<Url> {
        let mut base = target.url.clone();
        if !matches!(base.scheme(), "https" | "http") || base.cannot_be_a_base() {
            bail!("{base} is not the address of a gateway: https://host:port is expected");
        }
        base.set_path("/api/v1/");
        Ok(base)
    }

    /// GET, decoded.
    pub async fn get(&self, path: &str) -> Result<serde_json::Value> {
        decode(self.send(Method::GET, path, None).await?).await
    }

    /// PUT or POST of a JSON body, decoded.
    pub async fn send_json(&self, method: Method, path: &str, body: Bytes) -> Result<serde_json::Value> {
        decode(self.send(method, path, Some(body)).await?).await
    }

    /// A GET whose answer is read bit by bit.
    pub async fn stream(&self, path: &str) -> Result<Response> {
        self.send(Method::GET, path, None).await
    }

    /// POSTs a JSON body and takes the answer as it is, whatever it says.
    pub(crate) async fn post_once(&self, path: &str, body: Bytes) -> Result<http::Response<Vec<u8>>> {
        let request = self.http.post(self.base.join(path)?).header(CONTENT_TYPE, "application/json").body(body);
        let answer = request.send().await.with_context(|| format!("asking {}", self.base))?;
        let mut response = http::Response::new(Vec::new());
        (*response.status_mut(), *response.version_mut()) = (answer.status(), answer.version());
        *response.headers_mut() = answer.headers().clone();
        *response.body_mut() = answer.bytes().await?.to_vec();
        Ok(response)
    }

    /// Sends until there is an answer that another try would not change. Everything that these commands send may be
    /// sent twice: an upsert of the same point is the same point.
    async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Response> {
        let url = self.base.join(path)?;
        let mut wait = FIRST_WAIT;
        for tried in 1.. {
            let mut request = self.http.request(method.clone(), url.clone());
            if let Some(body) = &body {
                request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
            }
            let (failure, pause) = match request.send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
                    let failure = anyhow::Error::new(problem(answer).await);
                    if !is_passing(status) {
                        return Err(failure);
                    }
                    (failure, retry_after)
                }
                Err(error) if error.is_builder() => return Err(error.into()),
                Err(error) => (anyhow::Error::new(error).context(format!("asking {}", self.base)), None),
            };
            if tried == MAX_TRIES || pause.is_some_and(|pause| pause > MAX_RETRY_AFTER) {
                return Err(failure.context(format!("gave up after {tried} tries")));
            }
            let jitter = rand::random_range(0.5..1.0);
            tokio::time::sleep(pause.unwrap_or_else(|| wait.mul_f64(jitter))).await;
            wait = (wait * 2).min(MAX_WAIT);
        }
        unreachable!("the loop ends by itself")
    }
}

/// Whether the same request may well succeed later.
fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

async fn problem(mut answer: Response) -> Problem {
    let status = answer.status();
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_PROBLEM_BYTES {
            break;
        }
    }
    Problem::from_body(status, &body)
}

async fn decode(answer: Response) -> Result<serde_json::Value> {
    answer.json().await.context("decoding the answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::local(url.parse().expect("a URL"), "t".to_owned(), PathBuf::new())
    }

    #[test]
    fn own_credentials_stay_on_this_machine() {
        for (url, local) in [
            ("https://127.0.0.1:8443", true),
            ("https://[::1]:8443", true),
            ("https://localhost", true),
            ("https://localhost.example", false),
            ("https://10.0.0.1", false),
        ] {
            assert_eq!(target(url).is_local(), local, "{url}");
        }
    }

    #[test]
    fn an_error_that_is_no_problem_document_is_told_all_the_same() {
        let problem = Problem::from_body(StatusCode::BAD_GATEWAY, b"<html>");
        assert_eq!(problem.to_string(), "502 Bad Gateway: <html>");
        let body = br#"{"status":400,"title":"malformed","detail":"d","errors":[{"pointer":"/k","detail":"is 0"}]}"#;
        let problem = Problem::from_body(StatusCode::BAD_REQUEST, body);
        assert_eq!(problem.to_string(), "400 malformed: d; /k: is 0");
    }
}
