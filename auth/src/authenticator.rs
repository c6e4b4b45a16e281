//! From credentials to a principal.
//!
//! Verifying a signature costs fifty times what the rest of a cached request does, so a token's verdict is remembered:
//! until the token expires, or its issuer's keys change. A refusal is not remembered. It would serve nobody but a
//! sender of bad tokens, and could outlive its reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::api_key::{ApiKeys, Location, StoreError};
use crate::issuer::{self, Issuer};
use crate::jwt::{self, Unverified};
use crate::{Principal, Rejection, unix_now};

/// Verified tokens remembered at once, some 300 bytes each.
const MAX_VERDICTS: u64 = 100_000;

/// `[auth]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the API keys are: a file, made when it is not there, or a PostgreSQL; without it there are none.
    pub api_keys: Option<Location>,
    pub issuers: Vec<issuer::Config>,
}

/// Why authentication could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("opening the API keys")]
    ApiKeys(#[from] StoreError),
    #[error("two issuers are called {0}")]
    Duplicate(String),
    #[error("setting up an issuer")]
    Issuer(#[from] issuer::Error),
}

/// What a caller presents, unverified.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    ApiKey(&'a str),
    Bearer(&'a str),
}

/// Tells who is calling. One serves the whole process.
pub struct Authenticator {
    issuers: Vec<Issuer>,
    api_keys: Option<ApiKeys>,
    verdicts: moka::sync::Cache<blake3::Hash, Arc<Verdict>>,
}

struct Verdict {
    principal: Arc<Principal>,
    /// Unix seconds.
    expires: u64,
    issuer: usize,
    generation: u64,
}

impl Config {
    /// What can be found wrong without opening anything.
    pub fn check(&self) -> Result<(), Error> {
        for (i, config) in self.issuers.iter().enumerate() {
            config.check()?;
            let name = config.resolve().issuer;
            if self.issuers[..i].iter().any(|other| other.resolve().issuer == name) {
                return Err(Error::Duplicate(name));
            }
        }
        Ok(())
    }
}

impl Authenticator {
    /// Reads the keys and watches them from tasks on the current runtime, until dropped.
    pub async fn start(config: &Config) -> Result<Self, Error> {
        config.check()?;
        let mut issuers = Vec::with_capacity(config.issuers.len());
        for issuer in &config.issuers {
            issuers.push(issuer.start().await?);
        }
        let api_keys = match &config.api_keys {
            Some(location) => Some(ApiKeys::open(location.clone()).await?),
            None => None,
        };
        let verdicts = moka::sync::Cache::builder().max_capacity(MAX_VERDICTS).expire_after(UntilExpiry).build();
        Ok(Self { issuers, api_keys, verdicts })
    }

    /// Who presents `credentials`, where that was found before and still holds. Costs a hash and no signature.
    pub fn recall(&self, credentials: Credentials<'_>) -> Option<Arc<Principal>> {
        match credentials {
            Credentials::Bearer(token) if token.len() <= jwt::MAX_BYTES => {
                self.recall_token(&blake3::hash(token.as_bytes()), unix_now())
            }
            // A key may have been revoked since.
            Credentials::ApiKey(_) | Credentials::Bearer(_) => None,
        }
    }

    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Arc<Principal>, Rejection> {
        match credentials {
            Credentials::ApiKey(key) => self.api_keys.as_ref().ok_or(Rejection::KeyUnknown)?.verify(key).await,
            Credentials::Bearer(token) => self.token(token, unix_now()).await,
        }
    }

    /// Of each issuer whose keys are read again and again: its name, and the time since they were last read well; none when
    /// they never were.
    pub fn key_ages(&self) -> impl Iterator<Item = (&str, Option<Duration>)> {
        let read = self.issuers.iter().filter(|issuer| issuer.keys.is_watched());
        read.map(|issuer| (issuer.name.as_str(), issuer.keys.age()))
    }

    /// The API keys, where there are any.
    pub fn api_keys(&self) -> Option<&ApiKeys> {
        self.api_keys.as_ref()
    }

    /// Resolves when the credentials that gave `principal` count no more: when they expire, or soon after their API key
    /// is revoked. Never for a token without an end.
    pub async fn ended(&self, principal: &Principal) {
        let expired = async {
            match principal.expires {
                Some(at) => tokio::time::sleep(Duration::from_secs(at.saturating_sub(unix_now()))).await,
                None => std::future::pending().await,
            }
        };
        let revoked = async {
            match (&self.api_keys, &principal.key) {
                (Some(keys), Some(id)) => keys.ended(id).await,
                // It was one of keys that are no longer asked for.
                (None, Some(_)) => {}
                (_, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = expired => {}
            () = revoked => {}
        }
    }

    async fn token(&self, token: &str, now: u64) -> Result<Arc<Principal>, Rejection> {
        if token.len() > jwt::MAX_BYTES {
            return Err(Rejection::TooLong(jwt::MAX_BYTES));
        }
        let fingerprint = blake3::hash(token.as_bytes());
        if let Some(principal) = self.recall_token(&fingerprint, now) {
            return Ok(principal);
        }
        let unverified = Unverified::parse(token)?;
        let named = |issuer: &Issuer| issuer.name == unverified.issuer();
        let index = self.issuers.iter().position(named).ok_or(Rejection::Issuer)?;
        let verdict = match self.verify(unverified, index, now) {
            // A key that came after the last reading, or a first reading that failed.
            Err(Rejection::SigningKeyUnknown | Rejection::Unavailable) => {
                self.issuers[index].keys.read_again().await;
                self.verify(Unverified::parse(token)?, index, now)?
            }
            other => other?,
        };
        let principal = Arc::clone(&verdict.principal);
        self.verdicts.insert(fingerprint, Arc::new(verdict));
        Ok(principal)
    }

    fn recall_token(&self, fingerprint: &blake3::Hash, now: u64) -> Option<Arc<Principal>> {
        let verdict = self.verdicts.get(fingerprint)?;
        verdict.holds(&self.issuers, now).then(|| Arc::clone(&verdict.principal))
    }

    fn verify(&self, token: Unverified<'_>, index: usize, now: u64) -> Result<Verdict, Rejection> {
        let issuer = &self.issuers[index];
        let keys = issuer.keys.current().ok_or(Rejection::Unavailable)?;
        let verified = token.verify(issuer, &keys.set, now)?;
        Ok(Verdict {
            principal: Arc::new(verified.principal),
            expires: verified.expires,
            issuer: index,
            generation: keys.number,
        })
    }
}

impl Verdict {
    fn holds(&self, issuers: &[Issuer], now: u64) -> bool {
        now < self.expires && issuers[self.issuer].keys.generation() == self.generation
    }
}

/// Frees the memory of expired verdicts. What counts is [`Verdict::holds`].
struct UntilExpiry;

impl moka::Expiry<blake3::Hash, Arc<Verdict>> for UntilExpiry {
    fn expire_after_create(&self, _: &blake3::Hash, verdict: &Arc<Verdict>, _: Instant) -> Option<Duration> {
        Some(Duration::from_secs(verdict.expires.saturating_sub(unix_now())))
    }
}

#[cfg(test)]
mod tests;
