//! What an issuer's subjects may do, where the settings say it rather than the tokens: workload identity.
//!
//! An ID token of a cloud's (Google's, say) tells who a workload is and nothing of what it may do here.

use serde::{Deserialize, Deserializer};

use crate::{Principal, Scopes, jwt};

/// `[[auth.issuers.grants]]`: exactly one of `email` and `subject`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The token's `email`, which its issuer has to have verified: a service account's name.
    #[serde(default)]
    pub email: Option<String>,
    /// The token's `sub`: it stays when an account is deleted and another gets its name.
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(deserialize_with = "scopes")]
    pub scope: Scopes,
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub plan: Option<String>,
}

/// Scopes of a settings file: a word that is none is a mistake.
fn scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scopes, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut words = text.split_ascii_whitespace().map(|word| word.parse().map_err(serde::de::Error::custom));
    words.try_fold(Scopes::default(), |scopes, scope| Ok(scopes.with(scope?)))
}

/// What of a token's claims says who it is for.
#[derive(Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) subject: &'a str,
    /// Only when the issuer has verified it.
    pub(crate) email: Option<&'a str>,
}

impl Grant {
    /// Is it one that can be given?
    pub(crate) fn is_sound(&self) -> bool {
        let names = [&self.email, &self.subject].into_iter().flatten();
        names.clone().count() == 1
            && names.chain(&self.plan).all(|name| jwt::name(name.clone()).is_some())
            && self.tenant.iter().all(|tenant| jwt::tenant(tenant.clone()).is_some())
    }

    fn is_for(&self, identity: Identity<'_>) -> bool {
        match (&self.email, &self.subject) {
            (Some(email), None) => identity.email == Some(email),
            (None, Some(subject)) => identity.subject == subject,
            _ => false,
        }
    }

    /// The principal of whom `grants` know, named by what they know them by; one without any scope of whom they do not.
    pub(crate) fn principal(grants: &[Self], identity: Identity<'_>, expires: u64) -> Principal {
        let grant = grants.iter().find(|grant| grant.is_for(identity));
        let name = grant.and_then(|grant| grant.email.as_deref()).unwrap_or(identity.subject);
        Principal {
            subject: name.to_owned(),
            tenant: grant.and_then(|grant| grant.tenant.clone()),
            plan: grant.and_then(|grant| grant.plan.clone()),
            scopes: grant.map(|grant| grant.scope).unwrap_or_default(),
            expires: Some(expires),
            key: None,
        }
    }
}
