//! `nearfield token`: a JWT of the development issuer. A server over the same data directory trusts it at once.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_auth::dev::{DevKey, Grant};
use nearfield_auth::{Scope, Scopes};

#[derive(clap::Args)]
pub struct Options {
    /// The data directory of `nearfield dev`
    #[arg(long, default_value = "./nearfield-data")]
    data_dir: PathBuf,
    /// Who the token is for
    #[arg(long)]
    subject: String,
    /// What it allows, separated by spaces: vectors:read, vectors:write, collections:admin, cache:admin, regions:read,
    /// keys:admin, audit:read
    #[arg(long, value_parser = scopes)]
    scope: Scopes,
    /// Confines it to the collections of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Whose rate limits apply
    #[arg(long)]
    plan: Option<String>,
    /// How long it is good for
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

pub fn run(options: &Options) -> Result<()> {
    let path = options.data_dir.join("auth/dev-key.pem");
    if !path.exists() {
        eprintln!("there is no development key at {} yet: making one", path.display());
    }
    let grant = Grant {
        subject: options.subject.clone(),
        scopes: options.scope,
        tenant: options.tenant.clone(),
        plan: options.plan.clone(),
        ttl: options.ttl,
    };
    let key = DevKey::load_or_create(&options.data_dir).context("opening the development key")?;
    println!("{}", key.sign(&grant).context("signing a token")?);
    Ok(())
}

/// Scopes on the command line: unlike a token's claim, a word that is none is a mistake.
pub(crate) fn scopes(words: &str) -> Result<Scopes, String> {
    let mut scopes = Scopes::default();
    for word in words.split([' ', ',']).filter(|word| !word.is_empty()) {
        let scope = word.parse::<Scope>().map_err(|error| {
            let known: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
            format!("{error}; there are {}", known.join(", "))
        })?;
        scopes = scopes.with(scope);
    }
    if scopes == Scopes::default() {
        return Err("at least one scope is needed".to_owned());
    }
    Ok(scopes)
}

/// Every scope: what a developer's own token has.
pub(crate) fn all_scopes() -> Scopes {
    Scope::ALL.into_iter().fold(Scopes::default(), Scopes::with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_words_and_a_wrong_one_is_told_with_the_right_ones() {
        let read_write = Scopes::default().with(Scope::VectorsRead).with(Scope::VectorsWrite);
        assert_eq!(scopes("vectors:read vectors:write"), Ok(read_write));
        assert_eq!(scopes("vectors:read,vectors:write"), Ok(read_write));
        let error = scopes("vectors:reed").expect_err("no such scope");
        assert!(error.contains("vectors:reed") && error.contains("vectors:read,"), "{error}");
        scopes("  ").expect_err("no scope at all");
    }
}
