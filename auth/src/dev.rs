//! The development issuer: one ES256 key under a data directory, and tokens signed with it.
//!
//! The gateway that `nearfield dev` starts trusts this issuer through the same JWKS file and the same checks as any
//! other. Nothing here is used by a gateway that is configured with issuers of its own.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;
use jsonwebtoken::jwk::{Jwk, JwkSet, KeyOperations, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use crate::{Algorithm, Scopes, issuer};

pub const ISSUER: &str = "nearfield-dev";
pub const AUDIENCE: &str = "nearfield";

/// What went wrong with the development key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the development key")]
    File(#[from] std::io::Error),
    #[error("making a key")]
    Generate(#[from] rcgen::Error),
    #[error("not a P-256 private key in PKCS #8 PEM")]
    Key(#[from] jsonwebtoken::errors::Error),
    #[error("writing the key set")]
    Json(#[from] serde_json::Error),
}

/// Who a token is for and what it allows.
#[derive(Clone, Debug)]
pub struct Grant {
    pub subject: String,
    pub scopes: Scopes,
    pub tenant: Option<String>,
    pub plan: Option<String>,
    pub ttl: Duration,
}

/// The development issuer's private key.
pub struct DevKey {
    encoding: EncodingKey,
    id: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
}

/// Where the public half is kept, for `[[auth.issuers]] jwks_file`.
pub fn jwks_path(data_dir: &Path) -> PathBuf {
    data_dir.join("auth/jwks.json")
}

/// Where the API keys are kept, for `[auth] api_keys`.
pub fn api_keys_path(data_dir: &Path) -> PathBuf {
    data_dir.join("auth/keys.db")
}

/// The issuer's settings for a gateway. Token and gateway share one clock, so `--ttl` is exact: no leeway.
pub fn issuer(data_dir: &Path) -> issuer::Config {
    issuer::Config {
        preset: None,
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        algorithms: Some(vec![Algorithm::ES256]),
        hs256_secret: None,
        jwks_file: Some(jwks_path(data_dir)),
        jwks_url: None,
        leeway: Duration::ZERO,
        grants: Vec::new(),
    }
}

impl DevKey {
    /// Reads `<data_dir>/auth/dev-key.pem`, made with mode 0600 when it is not there, and sees that `jwks.json` beside
    /// it holds the public half. Two processes that do this at once end with the same key.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join("auth/dev-key.pem");
        fs::create_dir_all(data_dir.join("auth"))?;
        if !path.exists() {
            let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?.serialize_pem();
            place(&path, pem.as_bytes(), Placing::Once)?;
        }
        let encoding = EncodingKey::from_ec_pem(&fs::read(&path)?)?;
        let mut jwk = Jwk::from_encoding_key(&encoding, jsonwebtoken::Algorithm::ES256)?;
        let id = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_operations = Some(vec![KeyOperations::Verify]);
        let json = serde_json::to_vec_pretty(&JwkSet { keys: vec![jwk] })?;
        let public = jwks_path(data_dir);
        if fs::read(&public).ok().as_ref() != Some(&json) {
            place(&public, &json, Placing::Over)?;
        }
        Ok(Self { encoding, id })
    }

    /// A token that begins now.
    pub fn sign(&self, grant: &Grant) -> Result<String, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = Claims {
            iss: ISSUER,
            aud: AUDIENCE,
            sub: &grant.subject,
            iat: now,
            exp: now.saturating_add(grant.ttl.as_secs()),
            scope: grant.scopes.to_string(),
            tenant: grant.tenant.as_deref(),
            plan: grant.plan.as_deref(),
        };
        self.sign_claims(&claims)
    }

    /// A token with any claims.
    pub(crate) fn sign_claims(&self, claims: &impl Serialize) -> Result<String, Error> {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(jsonwebtoken::Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, claims, &self.encoding)?)
    }
}

#[derive(PartialEq)]
enum Placing {
    /// Whoever comes first wins.
    Once,
    Over,
}

/// Puts a whole file in place in one step, readable by its owner alone.
fn place(path: &Path, content: &[u8], placing: Placing) -> Result<(), std::io::Error> {
    let draft = path.with_extension(format!("{}-{:08x}.new", std::process::id(), rand::random::<u32>()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    options.options_mut().mode(0o600);
    let written = (|| {
        let mut file = options.open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        match placing {
            // A link, unlike a rename, fails when the name is taken.
            Placing::Once => match fs::hard_link(&draft, path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            },
            Placing::Over => fs::rename(&draft, path),
        }
    })();
    // Gone already after a rename.
    let _ = std::fs::remove_file(&draft);
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| DevKey::load_or_create(dir.path()).unwrap().id)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
        let mode = fs::metadata(dir.path().join("auth/dev-key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let left: Vec<_> = fs::read_dir(dir.path().join("auth")).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
