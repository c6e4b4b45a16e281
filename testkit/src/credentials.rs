//! Certificates and tokens of the kit's own making: a CA and a leaf for loopback, and signed JWTs with any claims.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

/// The issuer and audience that `nearfield dev` trusts; a [`crate::Cluster`] is configured alike.
pub(crate) const ISSUER: &str = "nearfield-dev";
pub(crate) const AUDIENCE: &str = "nearfield";

/// What a leaf is signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    EcdsaP256,
    Rsa2048,
}

/// The files of a CA and of a leaf that covers localhost, 127.0.0.1 and ::1.
pub struct TestCa {
    pub ca: PathBuf,
    pub leaf: PathBuf,
    pub leaf_key: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    pub fn create(directory: &Path) -> Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut ca_params = CertificateParams::new(Vec::new())?;
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca_params.distinguished_name.push(DnType::CommonName, "Nearfield test CA");
        let ca = ca_params.self_signed(&ca_key)?;
        let files = Self {
            ca: directory.join("ca.pem"),
            leaf: directory.join("leaf.pem"),
            leaf_key: directory.join("leaf-key.pem"),
            issuer: Issuer::new(ca_params, ca_key),
        };
        fs_err::write(&files.ca, ca.pem())?;
        files.renew(KeyAlgorithm::EcdsaP256)?;
        Ok(files)
    }

    /// A new leaf with a new key in the place of the old, written as anyone would: one file after the other.
    pub fn renew(&self, algorithm: KeyAlgorithm) -> Result<()> {
        let key = KeyPair::generate_for(match algorithm {
            KeyAlgorithm::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        })?;
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "localhost");
        let leaf = params.signed_by(&key, &self.issuer)?;
        fs_err::write(&self.leaf, leaf.pem())?;
        fs_err::write(&self.leaf_key, key.serialize_pem())?;
        Ok(())
    }
}

/// What a token says. `Default` is a valid token without scopes for ten minutes.
#[derive(Clone, Debug)]
pub struct Claims {
    pub issuer: String,
    pub audience: String,
    pub subject: String,
    pub scope: String,
    pub tenant: Option<String>,
    pub plan: Option<String>,
    /// Seconds from now; negative is in the past.
    pub expires_in: i64,
    pub not_before_in: Option<i64>,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            subject: "tester".to_owned(),
            scope: String::new(),
            tenant: None,
            plan: None,
            expires_in: 600,
            not_before_in: None,
        }
    }
}

impl Claims {
    /// Every scope there is.
    pub fn all() -> Self {
        let scope = "vectors:read vectors:write collections:admin cache:admin regions:read keys:admin audit:read";
        Self { scope: scope.to_owned(), ..Self::default() }
    }

    pub fn of_tenant(tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..Self::all() }
    }

    pub fn to_json(&self) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() as i64;
        let mut claims = json!({
            "iss": self.issuer, "aud": self.audience, "sub": self.subject, "scope": self.scope,
            "iat": now, "exp": now + self.expires_in,
        });
        if let Some(tenant) = &self.tenant {
            claims["tenant"] = json!(tenant);
        }
        if let Some(plan) = &self.plan {
            claims["plan"] = json!(plan);
        }
        if let Some(seconds) = self.not_before_in {
            claims["nbf"] = json!(now + seconds);
        }
        claims
    }
}

/// Signs tokens with an ES256 key.
pub struct Signer {
    key: EncodingKey,
    kid: Option<String>,
}

impl Signer {
    pub fn from_pem(pem: &str, kid: Option<String>) -> Result<Self> {
        Ok(Self { key: EncodingKey::from_ec_pem(pem.as_bytes()).context("an ES256 key in PKCS#8 PEM")?, kid })
    }

    pub fn token(&self, claims: &Claims) -> Result<String> {
        self.sign(&self.header(), &claims.to_json())
    }

    pub fn header(&self) -> Header {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = self.kid.clone();
        header
    }

    /// Signs any header and claims, well-formed or not.
    pub fn sign(&self, header: &Header, claims: &Value) -> Result<String> {
        Ok(jsonwebtoken::encode(header, claims, &self.key)?)
    }
}

/// A signing key of our own with the files that publish it: as a JWKS, and alone as PEM.
pub struct Authority {
    pub signer: Signer,
    pub jwks: PathBuf,
    pub public_key: PathBuf,
}

impl Authority {
    pub fn create(directory: &Path) -> Result<Self> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        // An uncompressed point (SEC 1, 2.3.3): 4, x, y.
        let point = pair.public_key_raw();
        anyhow::ensure!(point.len() == 65 && point[0] == 4, "an uncompressed P-256 point");
        let (x, y) = point[1..].split_at(32);
        let kid = "test-key-1".to_owned();
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        });
        let jwks = directory.join("jwks.json");
        fs_err::write(&jwks, serde_json::to_vec(&json!({ "keys": [key] }))?)?;
        let public_key = directory.join("jwt-public.pem");
        fs_err::write(&public_key, pair.public_key_pem())?;
        Ok(Self { signer: Signer::from_pem(&pair.serialize_pem(), Some(kid))?, jwks, public_key })
    }
}
