//! Verifying a JSON Web Token (RFC 7519) as a JWS in compact form, by the rules of RFC 8725.
//!
//! Pure: the keys and the time are arguments. The signature is checked by `jsonwebtoken`; the header and the claims
//! are read here, so that nothing of them is looked at but what is named below. Parameters by which a token could
//! bring its own key (`jwk`, `jku`, `x5u`, `x5c`) are not among these.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::grant::Identity;
use crate::issuer::Issuer;
use crate::jwks::KeySet;
use crate::{Algorithm, Grant, Principal, Rejection, Scopes};

/// A longer token is refused unread.
pub(crate) const MAX_BYTES: usize = 8 * 1024;
/// Subject, tenant and plan go into metadata, logs and keys of limits and caches.
pub(crate) const MAX_NAME_BYTES: usize = 256;
/// RFC 8725 section 3.11: other kinds of JWT (an ID token's logout, a DPoP proof) are no access tokens.
const TYPES: [&str; 4] = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: OneOrMany,
    exp: f64,
    #[serde(default, deserialize_with = "present")]
    nbf: Option<f64>,
    sub: String,
    // A tenant that is null or a number must not pass for a caller without one.
    #[serde(default, deserialize_with = "present")]
    tenant: Option<String>,
    #[serde(default)]
    plan: Option<String>,
    #[serde(default)]
    email: Option<String>,
    /// Some issuers write it as text, which is no verification here.
    #[serde(default)]
    email_verified: Value,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    scp: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A token that has been taken apart and not believed.
pub(crate) struct Unverified<'a> {
    header: Header,
    claims: Claims,
    algorithm: Option<Algorithm>,
    signed: &'a str,
    signature: &'a str,
}

/// What a token proved.
#[derive(Debug, PartialEq)]
pub(crate) struct Verified {
    pub(crate) principal: Principal,
    /// The end of its life in Unix seconds, the issuer's leeway included.
    pub(crate) expires: u64,
}

impl<'a> Unverified<'a> {
    pub(crate) fn parse(token: &'a str) -> Result<Self, Rejection> {
        if token.len() > MAX_BYTES {
            return Err(Rejection::TooLong(MAX_BYTES));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Rejection::Shape)?;
        let (header, claims) = signed.split_once('.').ok_or(Rejection::Shape)?;
        if claims.contains('.') {
            return Err(Rejection::Shape);
        }
        let header: Header = part(header).ok_or(Rejection::Shape)?;
        if header.crit.is_some() {
            return Err(Rejection::Critical);
        }
        if header.typ.as_deref().is_some_and(|typ| !TYPES.iter().any(|t| t.eq_ignore_ascii_case(typ))) {
            return Err(Rejection::Type);
        }
        let claims = claims_of(claims)?;
        let algorithm = Algorithm::from_header(&header.alg);
        Ok(Self { header, claims, algorithm, signed, signature })
    }

    /// Whose token it says it is.
    pub(crate) fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// `now` is in Unix seconds.
    pub(crate) fn verify(self, issuer: &Issuer, keys: &KeySet, now: u64) -> Result<Verified, Rejection> {
        if self.claims.iss != issuer.name {
            return Err(Rejection::Issuer);
        }
        let algorithm = self.algorithm.filter(|a| issuer.algorithms.contains(a)).ok_or(Rejection::Algorithm)?;
        let key = keys.select(self.header.kid.as_deref(), algorithm)?;
        let good = jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), key, algorithm.into());
        if !good.unwrap_or(false) {
            return Err(Rejection::Signature);
        }
        self.claims.accept(issuer, now)
    }
}

fn part<T: DeserializeOwned>(encoded: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// Names the claim that is amiss, since that is what the maker of a token wants to know.
fn claims_of(encoded: &str) -> Result<Claims, Rejection> {
    let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Rejection::Shape)?;
    serde_json::from_slice(&json).map_err(|error| {
        let text = error.to_string();
        let named = ["iss", "aud", "exp", "sub"].into_iter().find(|claim| text.contains(&format!("`{claim}`")));
        match named {
            Some(claim) => Rejection::Claim(claim),
            None if error.is_data() => Rejection::Claim("set"),
            None => Rejection::Shape,
        }
    })
}

impl Claims {
    fn accept(self, issuer: &Issuer, now: u64) -> Result<Verified, Rejection> {
        if !self.aud.as_slice().contains(&issuer.audience) {
            return Err(Rejection::Audience);
        }
        let leeway = issuer.leeway.as_secs();
        let expires = numeric_date(self.exp).ok_or(Rejection::Claim("exp"))?.saturating_add(leeway);
        if expires <= now {
            return Err(Rejection::Expired);
        }
        if let Some(nbf) = self.nbf
            && numeric_date(nbf).ok_or(Rejection::Claim("nbf"))? > now.saturating_add(leeway)
        {
            return Err(Rejection::NotYetValid);
        }
        let subject = name(self.sub).ok_or(Rejection::Claim("sub"))?;
        if !issuer.grants.is_empty() {
            // An address that nobody has verified names nobody.
            let email = self.email.as_deref().filter(|_| self.email_verified == Value::Bool(true));
            let identity = Identity { subject: &subject, email };
            return Ok(Verified { principal: Grant::principal(&issuer.grants, identity, expires), expires });
        }
        let scope = self.scope.as_deref().map(Scopes::from_claim).unwrap_or_default();
        let words = self.scp.as_ref().map_or(&[][..], OneOrMany::as_slice);
        let scopes = words.iter().flat_map(|w| Scopes::from_claim(w).iter().collect::<Vec<_>>());
        let principal = Principal {
            subject,
            tenant: self.tenant.map(|t| tenant(t).ok_or(Rejection::Claim("tenant"))).transpose()?,
            plan: self.plan.map(|p| name(p).ok_or(Rejection::Claim("plan"))).transpose()?,
            scopes: scopes.fold(scope, Scopes::with),
            expires: Some(expires),
            key: None,
        };
        Ok(Verified { principal, expires })
    }
}

/// RFC 7519 section 2: seconds since 1970, fractions allowed.
fn numeric_date(seconds: f64) -> Option<u64> {
    (seconds.is_finite() && (0.0..1e15).contains(&seconds)).then_some(seconds as u64)
}

pub(crate) fn name(name: String) -> Option<String> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control);
    fits.then_some(name)
}

/// A tenant travels in gRPC metadata, so it is visible ASCII.
pub(crate) fn tenant(tenant: String) -> Option<String> {
    name(tenant).filter(|t| t.bytes().all(|b| b.is_ascii_graphic()))
}

#[cfg(test)]
mod tests;
