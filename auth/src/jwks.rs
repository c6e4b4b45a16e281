//! An issuer's published keys (RFC 7517): what of a JSON Web Key Set is usable, and which key verifies a token.
//!
//! Every key is bound to one algorithm when it is read, by its type and curve and not by what a token says later. So a
//! token cannot have a public key used as an HMAC secret, nor a P-384 point taken for a P-256 one.

mod watch;

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;

pub(crate) use watch::Keys;

use crate::{Algorithm, Rejection};

/// A key set larger than this is not read.
const MAX_BYTES: usize = 256 * 1024;
/// Keys of one set that are looked at.
const MAX_KEYS: usize = 64;
/// RSA moduli taken, in bytes: 2,048 to 8,192 bits (RFC 7518 section 3.3, and what the verifier takes).
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Why a key set was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no usable key in the key set")]
    Empty,
    #[error("fetching the key set")]
    Fetch(#[source] reqwest::Error),
    #[error("not a JSON Web Key Set")]
    Json(#[from] serde_json::Error),
    #[error("reading the key set")]
    Read(#[from] std::io::Error),
    #[error("the key set is larger than {MAX_BYTES} bytes")]
    TooLarge,
}

/// https, or http that stays on this machine.
pub(crate) fn url_is_safe(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    url.scheme() == "https" || url.scheme() == "http" && local
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

/// The usable keys of one issuer.
pub(crate) struct KeySet(Vec<Key>);

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    pub(crate) fn of_secret(secret: DecodingKey) -> Self {
        Self(vec![Key { id: None, algorithm: Algorithm::HS256, decoding: secret }])
    }

    /// Keys of other kinds and for other uses are passed over, as RFC 7517 section 5 asks.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, Error> {
        if json.len() > MAX_BYTES {
            return Err(Error::TooLarge);
        }
        let document: Document = serde_json::from_slice(json)?;
        let keys: Vec<Key> = document.keys.into_iter().take(MAX_KEYS).filter_map(usable).collect();
        if keys.is_empty() { Err(Error::Empty) } else { Ok(Self(keys)) }
    }

    /// The key for a token that names `id`, or none, and was signed by `algorithm`.
    pub(crate) fn select(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&DecodingKey, Rejection> {
        // A secret shared with the issuer has no id of its own, whatever the token calls it.
        let named = |key: &&Key| id.is_none() || key.id.is_none() && self.0.len() == 1 || key.id.as_deref() == id;
        let mut fitting = self.0.iter().filter(named).filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(&key.decoding),
            // Several keys and no id: guessing is for the issuer to make unnecessary.
            (Some(key), Some(_)) if id.is_some() => Ok(&key.decoding),
            (None, _) if self.0.iter().any(|key| named(&key)) => Err(Rejection::SigningKeyMismatch),
            _ => Err(Rejection::SigningKeyUnknown),
        }
    }
}

fn usable(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
    let may_verify = jwk.common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
    if !for_signatures || !may_verify {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        AlgorithmParameters::RSA(_) if rsa_is_sound(&decoding) => Algorithm::RS256,
        // Symmetric keys are not published; other curves have no algorithm here.
        _ => return None,
    };
    let declared = jwk.common.key_algorithm;
    if declared.is_some_and(|d| d != KeyAlgorithm::from(jsonwebtoken::Algorithm::from(algorithm))) {
        return None;
    }
    Some(Key { id: jwk.common.key_id, algorithm, decoding })
}

fn rsa_is_sound(key: &DecodingKey) -> bool {
    match key.kind() {
        jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => RSA_MODULUS_BYTES.contains(&n.len()),
        jsonwebtoken::DecodingKeyKind::SecretOrDer(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const P256: (&str, &str) =
        ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");

    fn ec(extra: Value) -> Value {
        let mut key = json!({"kty": "EC", "crv": "P-256", "x": P256.0, "y": P256.1, "kid": "a"});
        for (name, value) in extra.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    fn parse(keys: &[Value]) -> Result<KeySet, Error> {
        KeySet::parse(&serde_json::to_vec(&json!({ "keys": keys })).unwrap())
    }

    #[test]
    fn keys_for_other_uses_are_passed_over() {
        assert!(parse(&[ec(json!({}))]).is_ok());
        assert!(parse(&[ec(json!({"use": "sig", "alg": "ES256", "key_ops": ["verify"]}))]).is_ok());
        for unusable in [
            ec(json!({"use": "enc"})),
            ec(json!({"alg": "ES384"})),
            ec(json!({"crv": "P-384"})),
            ec(json!({"key_ops": ["sign"]})),
            json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "short"}),
            json!({"kty": "AKP", "kid": "new"}),
            json!(7),
        ] {
            assert!(matches!(parse(std::slice::from_ref(&unusable)), Err(Error::Empty)), "{unusable}");
            assert_eq!(parse(&[unusable, ec(json!({}))]).unwrap().0.len(), 1);
        }
    }

    #[test]
    fn a_key_is_found_by_its_id_and_serves_one_algorithm() {
        let ed =
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "b"});
        let set = parse(&[ec(json!({})), ed]).unwrap();
        let select = |id, algorithm| set.select(id, algorithm).map(|_| ());
        assert_eq!(select(Some("a"), Algorithm::ES256), Ok(()));
        assert_eq!(select(Some("a"), Algorithm::EdDSA), Err(Rejection::SigningKeyMismatch));
        assert_eq!(select(Some("a"), Algorithm::HS256), Err(Rejection::SigningKeyMismatch));
        assert_eq!(select(Some("c"), Algorithm::ES256), Err(Rejection::SigningKeyUnknown));
        assert_eq!(select(None, Algorithm::EdDSA), Ok(()));
    }

    #[test]
    fn without_an_id_two_keys_are_ambiguous() {
        let set = parse(&[ec(json!({})), ec(json!({"kid": "b"}))]).unwrap();
        assert_eq!(set.select(None, Algorithm::ES256).map(|_| ()), Err(Rejection::SigningKeyUnknown));
    }
}
