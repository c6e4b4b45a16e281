//! Settings come from a TOML file, then from the environment: `NEARFIELD_<SECTION>__<KEY>` overrides `[section] key`.
//!
//! A settings type derives `Deserialize` with `deny_unknown_fields` and `default`, so a misspelt key is an error that
//! names it, and an absent one takes the documented default. A variable without the two underscores (`NEARFIELD_TOKEN`)
//! is for someone else and is passed over.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is wrong with the settings, in words that name the key and the file or variable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the settings")]
    Invalid(#[source] Box<figment::Error>),
    #[error("no settings file at {}", .0.display())]
    Missing(PathBuf),
}

/// Reads `file`, when one is named, and the environment.
pub fn load<T: DeserializeOwned>(file: Option<&Path>) -> Result<T, Error> {
    let mut figment = Figment::new();
    if let Some(file) = file {
        if !file.is_file() {
            return Err(Error::Missing(file.to_owned()));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    extract(figment.merge(variables().split("__")))
}

/// For a program that runs several servers: what it sets for one of them, then those variables that this server knows.
/// See [`unknown_variables`] for the rest.
pub fn compose<T: DeserializeOwned>(own: &impl Serialize) -> Result<T, Error> {
    let known: Vec<String> = keys().filter(|key| knows::<T>(key)).collect();
    extract(Figment::from(Serialized::defaults(own)).merge(only(&known)))
}

/// The variables whose keys neither `A` nor `B` has: misspelt ones, most likely.
pub fn unknown_variables<A: DeserializeOwned, B: DeserializeOwned>() -> Vec<String> {
    let unknown = keys().filter(|key| !knows::<A>(key) && !knows::<B>(key));
    unknown.map(|key| format!("{PREFIX}{}", key.to_uppercase())).collect()
}

const PREFIX: &str = "NEARFIELD_";

fn variables() -> Env {
    Env::prefixed(PREFIX).filter(|key| key.as_str().contains("__"))
}

/// `section__key` of each variable.
fn keys() -> impl Iterator<Item = String> {
    let keys: Vec<String> = variables().iter().map(|(key, _)| key.as_str().to_lowercase()).collect();
    keys.into_iter()
}

fn only(keys: &[String]) -> Env {
    Env::prefixed(PREFIX).only(&keys.iter().map(String::as_str).collect::<Vec<_>>()).split("__")
}

/// Whether the settings have the key; its value may still be a wrong one.
fn knows<T: DeserializeOwned>(key: &str) -> bool {
    let outcome = Figment::from(only(&[key.to_owned()])).extract::<T>();
    !outcome.is_err_and(|errors| errors.into_iter().any(|e| matches!(e.kind, figment::error::Kind::UnknownField(..))))
}

fn extract<T: DeserializeOwned>(figment: Figment) -> Result<T, Error> {
    figment.extract().map_err(|e| Error::Invalid(Box::new(e)))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Gateway {
        cache: Cache,
        log: Log,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Cache {
        redis_url: Option<String>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Log {
        level: String,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Searchd {
        log: Log,
    }

    /// Runs this test alone in a process of its own with other variables: a process must not change its own.
    fn in_a_process_with(variables: &[(&str, &str)], test: &str) {
        let own = std::env::current_exe().expect("this binary");
        let run = std::process::Command::new(own).args(["--exact", test]).envs(variables.iter().copied()).output();
        let run = run.expect("this binary runs");
        let output = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success() && output.contains("1 passed"), "{output}");
    }

    const INSIDE: (&str, &str) = ("INSIDE_SETTINGS_TEST", "1");

    #[test]
    fn each_server_takes_the_variables_that_it_knows() {
        if std::env::var_os(INSIDE.0).is_none() {
            let variables = [
                INSIDE,
                ("NEARFIELD_CACHE__REDIS_URL", "redis://x"),
                ("NEARFIELD_LOG__LEVEL", "debug"),
                ("NEARFIELD_LOG__LEVLE", "debug"),
                ("NEARFIELD_TOKEN", "secret"),
            ];
            return in_a_process_with(&variables, "settings::tests::each_server_takes_the_variables_that_it_knows");
        }
        let own = serde_json::json!({"log": {"level": "warn"}});
        let searchd: Searchd = compose(&own).expect("what searchd does not know is passed over");
        assert_eq!(searchd.log.level, "debug", "the environment wins");
        let gateway: Gateway = compose(&own).expect("what the gateway does not know is passed over");
        assert_eq!(gateway.cache.redis_url.as_deref(), Some("redis://x"));
        assert_eq!(unknown_variables::<Gateway, Searchd>(), ["NEARFIELD_LOG__LEVLE"]);
        let error = load::<Gateway>(None).expect_err("a server alone refuses it");
        let Error::Invalid(source) = error else { panic!("{error}") };
        assert!(source.to_string().contains("levle"), "{source}");
    }
}
