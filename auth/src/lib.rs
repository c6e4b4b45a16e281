//! Who is calling and what they may do: tokens, API keys, principals, scopes.

mod principal;

pub use principal::{Principal, Scope, Scopes};
