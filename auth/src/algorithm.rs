//! The signature algorithms that tokens may use. A closed list: what is not here, `none` above all, has no spelling.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
    /// HMAC with SHA-256: a secret shared with the issuer.
    HS256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
}

impl Algorithm {
    /// What an issuer that publishes its keys may use.
    pub const PUBLIC: [Self; 3] = [Self::ES256, Self::EdDSA, Self::RS256];

    /// The algorithm of a JOSE header's `alg`, in its exact spelling.
    pub(crate) fn from_header(alg: &str) -> Option<Self> {
        match alg {
            "ES256" => Some(Self::ES256),
            "EdDSA" => Some(Self::EdDSA),
            "HS256" => Some(Self::HS256),
            "RS256" => Some(Self::RS256),
            _ => None,
        }
    }
}

impl From<Algorithm> for jsonwebtoken::Algorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::ES256 => Self::ES256,
            Algorithm::EdDSA => Self::EdDSA,
            Algorithm::HS256 => Self::HS256,
            Algorithm::RS256 => Self::RS256,
        }
    }
}
