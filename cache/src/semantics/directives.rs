//! What an answer says to a shared cache: `Cache-Control` (RFC 9111 section 5.2.2), or the first field of those that
//! are aimed at this cache (RFC 9213).

use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

use super::structured::{self, Value};

/// The field that is for this cache alone.
pub const OWN: HeaderName = HeaderName::from_static("nearfield-cache-control");
/// The field that is for all caches that an origin's operator runs.
pub const CDN: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Whether a directive that may name fields is there, and which it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    #[default]
    Nothing,
    Fields(Vec<HeaderName>),
    Everything,
}

/// The directives of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub no_store: bool,
    pub no_cache: Scope,
    pub private: Scope,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub max_age: Option<Duration>,
    pub shared_max_age: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    /// It came in a field aimed at this cache: `Expires` has no say.
    pub targeted: bool,
}

impl Control {
    /// By the first of `targets` that is well-formed and not empty, else by `Cache-Control`.
    pub fn of(headers: &HeaderMap, targets: &[HeaderName]) -> Self {
        targets.iter().find_map(|target| Self::targeted(headers, target)).unwrap_or_else(|| Self::plain(headers))
    }

    fn plain(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        for (name, value) in directives(headers) {
            control.learn(&name, value);
        }
        control
    }

    /// RFC 9213 section 2.1: a dictionary; a field that is none is ignored, and so is one whose values have wrong types.
    fn targeted(headers: &HeaderMap, target: &HeaderName) -> Option<Self> {
        let lines: Option<Vec<&str>> = headers.get_all(target).iter().map(|line| line.to_str().ok()).collect();
        let members = structured::dictionary(&lines?.join(", ")).filter(|members| !members.is_empty())?;
        let mut control = Self { targeted: true, ..Self::default() };
        for (name, value) in members {
            match (name.as_str(), value) {
                ("max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error", Value::Integer(seconds)) => {
                    control.learn(&name, Some(seconds.to_string()));
                }
                ("max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error", _) => return None,
                (_, Value::String(text)) => control.learn(&name, Some(text)),
                (_, Value::True) => control.learn(&name, None),
                _ => {}
            }
        }
        Some(control)
    }

    fn learn(&mut self, name: &str, value: Option<String>) {
        // The first of two is used (RFC 9111 section 4.2.1); one that cannot be read is over.
        let lifetime = |slot: &mut Option<Duration>| {
            slot.get_or_insert_with(|| seconds(value.as_deref().unwrap_or_default()));
        };
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache.widen(value.as_deref()),
            "private" => self.private.widen(value.as_deref()),
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "max-age" => lifetime(&mut self.max_age),
            "s-maxage" => lifetime(&mut self.shared_max_age),
            "stale-while-revalidate" => lifetime(&mut self.stale_while_revalidate),
            "stale-if-error" => lifetime(&mut self.stale_if_error),
            _ => {}
        }
    }

    /// Is it forbidden to give the answer once it is stale, whatever else is said (section 4.2.4)?
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate
            || self.proxy_revalidate
            || self.shared_max_age.is_some()
            || self.no_cache == Scope::Everything
    }
}

impl Scope {
    /// A directive that names no field that can be one is about the whole answer.
    fn widen(&mut self, value: Option<&str>) {
        let names: Vec<HeaderName> = value
            .unwrap_or_default()
            .split(',')
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .collect();
        match self {
            Self::Everything => {}
            _ if names.is_empty() => *self = Self::Everything,
            Self::Fields(known) => known.extend(names),
            Self::Nothing => *self = Self::Fields(names),
        }
    }

    pub fn fields(&self) -> &[HeaderName] {
        match self {
            Self::Fields(names) => names,
            Self::Everything | Self::Nothing => &[],
        }
    }
}

/// `name[=value]` of every `Cache-Control` line, names in lower case, values without quotes.
pub fn directives(headers: &HeaderMap) -> impl Iterator<Item = (String, Option<String>)> {
    let lines = headers.get_all(header::CACHE_CONTROL).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(members).filter_map(|directive| {
        let (name, value) = match directive.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (directive, None),
        };
        let name = name.trim().to_ascii_lowercase();
        (!name.is_empty()).then(|| (name, value.map(unquoted)))
    })
}

/// The members of a list (RFC 9110 section 5.6.1), commas inside of quotes left alone.
pub fn members(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    line.split(move |c| {
        let end = c == ',' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        end
    })
    .map(str::trim)
    .filter(|member| !member.is_empty())
}

fn unquoted(value: &str) -> String {
    let value = value.trim_end();
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) => text.replace('\\', ""),
        None => value.to_owned(),
    }
}

/// What a number of seconds means that is too large to be one (RFC 9111 section 1.2.2).
const VERY_LONG: u64 = 1 << 31;

/// RFC 9111 section 1.2.2: delta-seconds; zero for what is none.
pub fn seconds(value: &str) -> Duration {
    Duration::from_secs(if is_seconds(value) { value.parse().unwrap_or(VERY_LONG).min(VERY_LONG) } else { 0 })
}

pub(super) fn is_seconds(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(lines: &[(HeaderName, &str)]) -> Control {
        let headers = lines.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        Control::of(&headers, &[OWN, CDN])
    }

    fn plain(line: &str) -> Control {
        control(&[(header::CACHE_CONTROL, line)])
    }

    fn check_max_age(line: &str, expected: Option<u64>) {
        assert_eq!(plain(line).max_age, expected.map(Duration::from_secs), "{line}");
    }

    #[test]
    fn lifetimes_are_read() {
        check_max_age("max-age=60", Some(60));
        check_max_age("MaX-aGe=60", Some(60));
        check_max_age("max-age=003600", Some(3600));
        check_max_age("max-age=\"60\"", Some(60));
        check_max_age("foobar, max-age=60", Some(60));
        check_max_age("max-age=2147483649", Some(VERY_LONG));
        check_max_age("max-age=99999999999999999999999", Some(VERY_LONG));
        check_max_age("s-maxage=60", None);
        check_max_age(",, ,", None);
    }

    #[test]
    fn a_lifetime_that_cannot_be_read_is_over() {
        for line in ["max-age=soon", "max-age=-1", "max-age='60'", "max-age=60.0", "max-age=60a", "max-age=", "max-age"]
        {
            check_max_age(line, Some(0));
        }
    }

    #[test]
    fn the_first_of_two_lifetimes_is_used() {
        check_max_age("max-age=1800, max-age=1", Some(1800));
        check_max_age("max-age=1, max-age=1800", Some(1));
    }

    #[test]
    fn what_is_quoted_is_no_directive() {
        check_max_age("extension=\"max-age=3600\", max-age=1", Some(1));
        check_max_age("max-age=1, extension=\"a, max-age=3600\"", Some(1));
        check_max_age("extension=\"\\\", max-age=3600\"", None);
    }

    #[test]
    fn directives_may_name_fields() {
        let named = plain("private=\"a, b\", no-cache=\"c\", no-cache=\"d\"");
        assert_eq!(named.private.fields(), ["a", "b"]);
        assert_eq!(named.no_cache.fields(), ["c", "d"]);
        assert_eq!(plain("private=\"\"").private, Scope::Everything);
        assert_eq!(plain("no-cache=\"a\", No-Cache").no_cache, Scope::Everything);
        assert_eq!(plain("no-cache, no-cache=\"a\"").no_cache, Scope::Everything);
    }

    #[test]
    fn a_field_aimed_at_this_cache_replaces_cache_control() {
        let both = control(&[(header::CACHE_CONTROL, "no-store"), (CDN, "max-age=10, private=\"a\"")]);
        assert!(both.targeted && !both.no_store);
        assert_eq!(
            (both.max_age, both.private.fields()),
            (Some(Duration::from_secs(10)), &[HeaderName::from_static("a")][..])
        );
        let own = control(&[(CDN, "max-age=10"), (OWN, "no-store")]);
        assert!(own.no_store && own.max_age.is_none());
    }

    #[test]
    fn a_field_aimed_at_this_cache_that_is_malformed_is_ignored() {
        for line in ["max-age=10, &&&&", "max-age=\"10\"", "max-age =10", "MaX-aGe=10", "", "max-age=ten"] {
            let both = control(&[(header::CACHE_CONTROL, "no-store"), (CDN, line)]);
            assert!(both.no_store && !both.targeted, "{line}");
        }
        assert_eq!(control(&[(CDN, "max-age=-10")]).max_age, Some(Duration::ZERO));
    }
}
