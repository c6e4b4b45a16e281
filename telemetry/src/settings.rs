//! Settings come from a TOML file, then from the environment: `NEARFIELD_<SECTION>__<KEY>` overrides `[section] key`.
//!
//! A settings type derives `Deserialize` with `deny_unknown_fields` and `default`, so a misspelt key is an error that
//! names it, and an absent one takes the documented default. A variable without the two underscores (`NEARFIELD_TOKEN`)
//! is for someone else and is passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Value};
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
    extract(figment(file)?)
}

/// The same, with the [`Values`] that were set.
pub fn read<T: DeserializeOwned>(file: Option<&Path>) -> Result<(T, Values), Error> {
    let figment = figment(file)?;
    let values = Values::of(&extract(figment.clone())?);
    Ok((extract(figment)?, values))
}

fn figment(file: Option<&Path>) -> Result<Figment, Error> {
    let mut figment = Figment::new();
    if let Some(file) = file {
        if !file.is_file() {
            return Err(Error::Missing(file.to_owned()));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    Ok(figment.merge(variables().split("__")))
}

/// What a file and the environment set, by dotted key, to be compared with what they set at another time. A list is one
/// value.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(BTreeMap<String, Value>);

impl Values {
    fn of(dict: &Dict) -> Self {
        let mut values = Self(BTreeMap::new());
        values.add("", dict);
        values
    }

    fn add(&mut self, prefix: &str, dict: &Dict) {
        for (key, value) in dict {
            match value {
                Value::Dict(_, inner) => self.add(&format!("{prefix}{key}."), inner),
                value => drop(self.0.insert(format!("{prefix}{key}"), value.clone())),
            }
        }
    }

    /// By key, for people: what is secret is hidden. All other keys have their defaults.
    pub fn shown(&self) -> serde_json::Value {
        let row = |(key, value): (&String, &Value)| {
            let value = serde_json::to_value(value).unwrap_or_default();
            serde_json::json!({ "key": key, "value": without_secrets(key, value) })
        };
        self.0.iter().map(row).collect()
    }

    /// The keys that have another value here than in `before`, or are set in one of the two only.
    pub fn changed(&self, before: &Self) -> Changed {
        let keys = self.0.keys().chain(before.0.keys());
        Changed(keys.filter(|&key| self.0.get(key) != before.0.get(key)).cloned().collect())
    }
}

/// Dotted keys whose values have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed(BTreeSet<String>);

impl Changed {
    pub fn add(&mut self, key: &str) {
        self.0.insert(key.to_owned());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether it is the key itself, or a key of that section.
    pub fn touches(&self, section: &str) -> bool {
        self.keys().any(|key| is_in(key, section))
    }

    /// Those in none of `sections`.
    pub fn outside(&self, sections: &[&str]) -> Vec<&str> {
        self.keys().filter(|key| !sections.iter().any(|section| is_in(key, section))).collect()
    }
}

/// Hides what is secret by its name, and of URLs who logs in and what they ask for.
fn without_secrets(key: &str, value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    const HIDDEN: &str = "hidden";
    let is_secret = ["secret", "password", "token"].iter().any(|word| key.ends_with(word));
    match value {
        Json::Array(values) => values.into_iter().map(|value| without_secrets(key, value)).collect(),
        Json::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name.clone(), without_secrets(&name, value))).collect()
        }
        _ if is_secret => HIDDEN.into(),
        Json::String(text) => match text.split_once("://") {
            Some((scheme, rest)) => {
                let rest = rest.split('?').next().unwrap_or_default();
                let host =
                    rest.rsplit_once('@').map_or_else(|| rest.to_owned(), |(_, host)| format!("{HIDDEN}@{host}"));
                format!("{scheme}://{host}").into()
            }
            None => Json::String(text),
        },
        other => other,
    }
}

fn is_in(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl<'a> FromIterator<&'a str> for Changed {
    fn from_iter<I: IntoIterator<Item = &'a str>>(keys: I) -> Self {
        Self(keys.into_iter().map(str::to_owned).collect())
    }
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

    #[test]
    fn settings_are_shown_without_their_secrets() {
        let dict: Dict = Figment::from(Toml::string(
            "[auth]\napi_keys = \"postgres://u:hunter2@db/keys?password=hunter2\"\n\
             [[auth.issuers]]\nissuer = \"a\"\nhs256_secret = \"hunter2\"\n\
             [client.proof]\nsecret_file = \"/run/secret\"\n[cache]\nredis_url = \"redis://:hunter2@r:1/2\"\n",
        ))
        .extract()
        .unwrap();
        let shown = Values::of(&dict).shown().to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        for kept in ["postgres://hidden@db/keys", "redis://hidden@r:1/2", "/run/secret", "\"issuer\":\"a\""] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn what_changed_is_named_by_its_dotted_key() {
        let values = |text: &str| Values::of(&Figment::from(Toml::string(text)).extract().expect("it is TOML"));
        let before = values("a = 1\n[s]\nlist = [1, 2]\nsame = \"x\"\n[s.t]\ngone = true\n");
        let after = values("[s]\nlist = [1, 3]\nsame = \"x\"\n[s.new]\nkey = 1.5\n");
        let changed = after.changed(&before);
        assert_eq!(changed, Changed::from_iter(["a", "s.list", "s.new.key", "s.t.gone"]));
        assert_eq!(before.changed(&after), changed, "either way");
        assert!(before.changed(&before).is_empty());
        assert!(changed.touches("s") && changed.touches("s.t") && changed.touches("a"));
        assert!(!changed.touches("s.same") && !changed.touches("s.li"));
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
