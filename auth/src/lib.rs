//! Who is calling and what they may do: tokens, API keys, principals, scopes.
//!
//! [`Authenticator`] takes unverified [`Credentials`] and gives a [`Principal`], or a [`Rejection`] that says what was
//! wrong and nothing of the credentials. Nothing here knows of HTTP.

mod algorithm;
pub mod api_key;
mod authenticator;
pub mod dev;
mod grant;
pub mod issuer;
mod jwks;
mod jwt;
mod principal;
mod rejection;

pub use algorithm::Algorithm;
pub use authenticator::{Authenticator, Config, Credentials, Error};
pub use grant::Grant;
pub use principal::{Principal, Scope, Scopes};
pub use rejection::Rejection;

/// Seconds since 1970.
fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}
