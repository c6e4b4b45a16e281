//! An issuer of tokens: its name, who its tokens are for, which algorithms it uses, where its keys are.
//!
//! Each issuer has its own allow-list and its own keys (RFC 8725 section 3.1): a token is only ever verified with a key
//! of the issuer that it names, by an algorithm that this key is for.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::DecodingKey;
use serde::Deserialize;

use crate::jwks::{self, KeySet, Keys};
use crate::{Algorithm, Grant};

/// Clocks differ: how long past `exp`, and before `nbf`, a token is taken, unless the issuer's settings say otherwise.
pub const LEEWAY: Duration = Duration::from_secs(10);
/// RFC 7518 section 3.2: an HS256 key is at least as long as the hash.
pub const SHORTEST_SECRET_BYTES: usize = 32;

/// Where Google publishes the keys of its ID tokens.
const GOOGLE_JWKS: &str = "https://www.googleapis.com/oauth2/v3/certs";
const GOOGLE: &str = "https://accounts.google.com";

/// What is known of an issuer beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// ID tokens of Google's service accounts: issuer, keys and algorithm. Who they are is said by `grants`.
    Google,
}

/// `[[auth.issuers]]`: exactly one of `hs256_secret`, `jwks_file` and `jwks_url`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Fills in what is not given.
    #[serde(default)]
    pub preset: Option<Preset>,
    /// The token's `iss`, compared byte by byte.
    #[serde(default)]
    pub issuer: String,
    /// One of the token's `aud`.
    pub audience: String,
    /// The algorithms allowed; by default all that the kind of key admits.
    #[serde(default)]
    pub algorithms: Option<Vec<Algorithm>>,
    #[serde(default)]
    pub hs256_secret: Option<Secret>,
    /// Watched: a changed file is taken within 2 s, and at once when a token names a key that is not in the old one.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// https, or http to this machine.
    #[serde(default)]
    pub jwks_url: Option<String>,
    #[serde(default = "default_leeway", with = "humantime_serde")]
    pub leeway: Duration,
    /// What its subjects may do. Not empty: only these count, and not what the tokens say of scopes, tenant and plan.
    #[serde(default)]
    pub grants: Vec<Grant>,
}

fn default_leeway() -> Duration {
    LEEWAY
}

/// Text that is not to be printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What is wrong with an issuer's settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("issuer {0}: an algorithm list that is empty, or mixes HS256 with algorithms of public keys")]
    Algorithms(String),
    #[error(
        "issuer {0}: a grant is for exactly one of email and subject, and its names are neither empty nor too long"
    )]
    Grant(String),
    #[error("issuer {issuer}: its keys")]
    Keys { issuer: String, source: jwks::Error },
    #[error("issuer or audience is empty")]
    Nameless,
    #[error("issuer {0}: the secret is shorter than {SHORTEST_SECRET_BYTES} bytes")]
    ShortSecret(String),
    #[error("issuer {0}: exactly one of hs256_secret, jwks_file and jwks_url is needed")]
    Source(String),
    #[error("issuer {0}: its tokens carry no scopes, so grants are needed")]
    Ungranted(String),
    #[error("issuer {0}: jwks_url is neither https nor http to this machine")]
    Url(String),
}

pub(crate) struct Issuer {
    pub(crate) name: String,
    pub(crate) audience: String,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) leeway: Duration,
    pub(crate) grants: Vec<Grant>,
    pub(crate) keys: Keys,
}

impl Config {
    /// With what the preset knows where nothing else is given.
    #[must_use]
    pub fn resolve(&self) -> Self {
        let mut resolved = self.clone();
        if let Some(Preset::Google) = self.preset {
            if resolved.issuer.is_empty() {
                GOOGLE.clone_into(&mut resolved.issuer);
            }
            if resolved.jwks_file.is_none() && resolved.jwks_url.is_none() {
                resolved.jwks_url = Some(GOOGLE_JWKS.to_owned());
            }
            resolved.algorithms.get_or_insert_with(|| vec![Algorithm::RS256]);
        }
        resolved
    }

    /// Checks what can be checked without reading the keys. Gives the allowed algorithms.
    pub fn check(&self) -> Result<Vec<Algorithm>, Error> {
        self.resolve().check_resolved()
    }

    fn check_resolved(&self) -> Result<Vec<Algorithm>, Error> {
        if self.issuer.is_empty() || self.audience.is_empty() {
            return Err(Error::Nameless);
        }
        let name = || self.issuer.clone();
        let sources = [self.hs256_secret.is_some(), self.jwks_file.is_some(), self.jwks_url.is_some()];
        if sources.into_iter().filter(|given| *given).count() != 1 {
            return Err(Error::Source(name()));
        }
        let symmetric = self.hs256_secret.is_some();
        let algorithms = self.algorithms.clone().unwrap_or_else(|| match symmetric {
            true => vec![Algorithm::HS256],
            false => Algorithm::PUBLIC.to_vec(),
        });
        // A public key offered as an HMAC secret must find no way in: HS256 is for issuers with a secret, and these
        // have nothing else.
        if algorithms.is_empty() || algorithms.iter().any(|a| (*a == Algorithm::HS256) != symmetric) {
            return Err(Error::Algorithms(name()));
        }
        if self.hs256_secret.as_ref().is_some_and(|secret| secret.0.len() < SHORTEST_SECRET_BYTES) {
            return Err(Error::ShortSecret(name()));
        }
        if self.jwks_url.as_deref().is_some_and(|url| !jwks::url_is_safe(url)) {
            return Err(Error::Url(name()));
        }
        if !self.grants.iter().all(Grant::is_sound) {
            return Err(Error::Grant(name()));
        }
        if self.preset.is_some() && self.grants.is_empty() {
            return Err(Error::Ungranted(name()));
        }
        Ok(algorithms)
    }

    /// Reads the keys and begins to watch them. A file has to be there and good; a URL may come later.
    pub(crate) async fn start(&self) -> Result<Issuer, Error> {
        self.resolve().start_resolved().await
    }

    async fn start_resolved(self) -> Result<Issuer, Error> {
        let algorithms = self.check_resolved()?;
        let failed = |source| Error::Keys { issuer: self.issuer.clone(), source };
        let keys = match (&self.hs256_secret, &self.jwks_file, &self.jwks_url) {
            (Some(secret), ..) => Keys::fixed(KeySet::of_secret(DecodingKey::from_secret(secret.0.as_bytes()))),
            (_, Some(path), _) => Keys::of_file(path.clone()).await.map_err(failed)?,
            (_, _, Some(url)) => Keys::of_url(&self.issuer, url).await.map_err(failed)?,
            (None, None, None) => return Err(Error::Source(self.issuer.clone())),
        };
        let Self { issuer: name, audience, leeway, grants, .. } = self;
        Ok(Issuer { name, audience, algorithms, leeway, grants, keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            preset: None,
            issuer: "https://issuer.example".to_owned(),
            audience: "nearfield".to_owned(),
            algorithms: None,
            hs256_secret: None,
            jwks_file: Some("keys.json".into()),
            jwks_url: None,
            leeway: LEEWAY,
            grants: Vec::new(),
        }
    }

    #[test]
    fn the_preset_of_google_fills_in_what_is_google_s() {
        let grant = Grant {
            email: Some("ci@project.iam.gserviceaccount.com".to_owned()),
            subject: None,
            scope: crate::Scopes::default(),
            tenant: None,
            plan: None,
        };
        let google = Config { preset: Some(Preset::Google), issuer: String::new(), jwks_file: None, ..config() };
        assert!(matches!(google.check(), Err(Error::Ungranted(_))));
        let google = Config { grants: vec![grant.clone()], ..google };
        assert_eq!(google.check().unwrap(), [Algorithm::RS256]);
        let resolved = google.resolve();
        assert_eq!((resolved.issuer.as_str(), resolved.jwks_url.as_deref()), (GOOGLE, Some(GOOGLE_JWKS)));
        // For nobody, for two, for a tenant that cannot travel.
        for bad in [
            Grant { email: None, ..grant.clone() },
            Grant { subject: Some("1".to_owned()), ..grant.clone() },
            Grant { tenant: Some("a b".to_owned()), ..grant },
        ] {
            assert!(matches!(Config { grants: vec![bad], ..google.clone() }.check(), Err(Error::Grant(_))));
        }
    }

    #[test]
    fn an_issuer_with_public_keys_never_takes_hs256() {
        assert_eq!(config().check().unwrap(), Algorithm::PUBLIC);
        let mixed = Config { algorithms: Some(vec![Algorithm::RS256, Algorithm::HS256]), ..config() };
        assert!(matches!(mixed.check(), Err(Error::Algorithms(_))));
        let none = Config { algorithms: Some(Vec::new()), ..config() };
        assert!(matches!(none.check(), Err(Error::Algorithms(_))));
    }

    #[test]
    fn a_secret_is_long_and_alone() {
        let short = Config { jwks_file: None, hs256_secret: Some("short".to_owned().into()), ..config() };
        assert!(matches!(short.check(), Err(Error::ShortSecret(_))));
        let both = Config { hs256_secret: Some("x".repeat(32).into()), ..config() };
        assert!(matches!(both.check(), Err(Error::Source(_))));
        let good = Config { jwks_file: None, hs256_secret: Some("x".repeat(32).into()), ..config() };
        assert_eq!(good.check().unwrap(), [Algorithm::HS256]);
        assert!(!format!("{good:?}").contains("xxx"));
    }

    #[test]
    fn keys_do_not_come_over_an_open_wire() {
        let at = |url: &str| Config { jwks_file: None, jwks_url: Some(url.to_owned()), ..config() }.check();
        assert!(matches!(at("http://issuer.example/jwks.json"), Err(Error::Url(_))));
        assert!(matches!(at("file:///etc/passwd"), Err(Error::Url(_))));
        assert!(at("https://issuer.example/jwks.json").is_ok());
        assert!(at("http://127.0.0.1:8000/jwks.json").is_ok());
        assert!(at("http://[::1]:8000/jwks.json").is_ok());
    }
}
