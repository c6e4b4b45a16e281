//! A verified caller.

use std::fmt;
use std::str::FromStr;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scope {
    AuditRead = 1,
    CacheAdmin = 2,
    CollectionsAdmin = 4,
    KeysAdmin = 8,
    RegionsRead = 16,
    VectorsRead = 32,
    VectorsWrite = 64,
}

impl Scope {
    pub const ALL: [Self; 7] = [
        Self::AuditRead,
        Self::CacheAdmin,
        Self::CollectionsAdmin,
        Self::KeysAdmin,
        Self::RegionsRead,
        Self::VectorsRead,
        Self::VectorsWrite,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuditRead => "audit:read",
            Self::CacheAdmin => "cache:admin",
            Self::CollectionsAdmin => "collections:admin",
            Self::KeysAdmin => "keys:admin",
            Self::RegionsRead => "regions:read",
            Self::VectorsRead => "vectors:read",
            Self::VectorsWrite => "vectors:write",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no scope.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scope {0:?}")]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(word: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|s| s.as_str() == word).ok_or_else(|| UnknownScope(word.to_owned()))
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope as u8 != 0
    }

    /// Do they suffice for what asks for `scope`? Who administers keys may read what was done with them.
    pub fn admit(self, scope: Scope) -> bool {
        self.contains(scope) || scope == Scope::AuditRead && self.contains(Scope::KeysAdmin)
    }

    #[must_use]
    pub fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope as u8)
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |s| self.contains(*s))
    }

    /// The known scopes of a space-separated list (RFC 6749 section 3.3); words of other services are passed over.
    pub fn from_claim(claim: &str) -> Self {
        claim.split_ascii_whitespace().filter_map(|word| word.parse().ok()).fold(Self::default(), Self::with)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

/// Who is calling, after verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// The token's `sub`, or the API key's subject.
    pub subject: String,
    /// Confines the caller to this tenant's collections.
    pub tenant: Option<String>,
    /// The rate-limit plan: "free", "standard", "premium", … as the gateway's configuration names them.
    pub plan: Option<String>,
    pub scopes: Scopes,
    /// Unix time in seconds (RFC 7519's NumericDate, leeway included) from which on the credentials count no more; none
    /// for an API key without an end. What outlives a request must look.
    pub expires: Option<u64>,
    /// The API key's id. It may be revoked before it expires: what outlives a request must ask
    /// [`Authenticator::ended`](crate::Authenticator::ended).
    pub key: Option<String>,
}
