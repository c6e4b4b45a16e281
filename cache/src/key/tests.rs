use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const READER: Audience<'_> = Audience { tenant: None, scope: "vectors:read" };

#[derive(Clone, Debug)]
struct Asked {
    collection: String,
    target: Result<String, Vec<f32>>,
    k: u32,
    metric: String,
    filter: Value,
    include: Vec<String>,
    ef_search: u32,
    recall_target: f64,
    exact: bool,
}

impl Asked {
    fn key(&self, filter: &str) -> Key {
        let target = match &self.target {
            Ok(id) => Target::Point(id),
            Err(values) => Target::Vector(values),
        };
        let query = Query {
            collection: &self.collection,
            target,
            k: self.k,
            metric: &self.metric,
            filter: filter.as_bytes(),
            include: &self.include,
            ef_search: self.ef_search,
            recall_target: self.recall_target,
            exact: self.exact,
        };
        Key::search(READER, &query)
    }
}

fn filter() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1000i64..1000).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e6f64..1e6).prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-d$]{1,2}", inner), 0..4).prop_map(|m| m.into_iter().collect::<Value>()),
        ]
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let word = || "[a-b]{1,2}";
    let target = prop_oneof![
        word().prop_map(Ok),
        prop::collection::vec(prop_oneof![Just(0.5f32), Just(-1.0), Just(2.0)], 1..4).prop_map(Err),
    ];
    let include = prop::collection::vec(prop_oneof![Just("metadata".to_owned()), Just("values".to_owned())], 0..3);
    let effort = (0u32..3, prop::sample::select(vec![0.0, 0.5, 0.95]));
    (word(), target, 1u32..4, word(), filter(), include, effort, any::<bool>()).prop_map(
        |(collection, target, k, metric, filter, include, (ef_search, recall_target), exact)| Asked {
            collection,
            target,
            k,
            metric,
            filter,
            include,
            ef_search,
            recall_target,
            exact,
        },
    )
}

/// The same JSON otherwise written: members turned round, white space, whole numbers as floats, escapes.
fn respelt(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<_> =
                members.iter().rev().map(|(name, v)| format!(" {} :\n{} ", respelt_text(name), respelt(v))).collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[ {} ]", items.iter().map(respelt).collect::<Vec<_>>().join(" , ")),
        Value::Number(n) if n.as_i64().is_some_and(|i| i.abs() < 1 << 53) => format!("{n}.0"),
        Value::String(text) => respelt_text(text),
        other => other.to_string(),
    }
}

fn respelt_text(text: &str) -> String {
    let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{escaped}\"")
}

/// What decides the answer, written out.
fn meaning(asked: &Asked) -> String {
    let mut include = asked.include.clone();
    if include.is_empty() {
        include.push("metadata".to_owned());
    }
    include.sort();
    include.dedup();
    let sorted = sorted(&asked.filter);
    let Asked { collection, target, k, metric, ef_search, recall_target, exact, .. } = asked;
    format!("{collection} {target:?} {k} {metric} {sorted} {include:?} {ef_search} {recall_target} {exact}")
}

fn sorted(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().map(|(name, v)| format!("{name:?}:{}", sorted(v))).collect();
            members.sort();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(sorted).collect::<Vec<_>>().join(",")),
        Value::Number(n) => match n.as_f64() {
            Some(f) if !n.is_i64() && f.fract() == 0.0 => format!("{}", f as i128),
            _ => n.to_string(),
        },
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn the_spelling_makes_no_difference(mut asked in asked()) {
        let first = asked.key(&asked.filter.to_string());
        asked.include.reverse();
        prop_assert_eq!(first, asked.key(&respelt(&asked.filter)));
    }

    #[test]
    fn two_questions_share_a_key_when_they_mean_the_same_and_only_then(a in asked(), b in asked()) {
        let (key_a, key_b) = (a.key(&a.filter.to_string()), b.key(&b.filter.to_string()));
        prop_assert_eq!(key_a == key_b, meaning(&a) == meaning(&b));
    }

    #[test]
    fn one_change_makes_another_key(asked in asked(), which in 0..9) {
        let mut other = asked.clone();
        match which {
            0 => other.collection.push('x'),
            1 => other.target = Ok("other".to_owned()),
            2 => other.k += 1,
            3 => other.metric.push('x'),
            4 => other.filter = json!({ "x": asked.filter }),
            5 => other.include = vec!["both".to_owned()],
            6 => other.ef_search += 1,
            7 => other.recall_target += 0.01,
            _ => other.exact = !asked.exact,
        }
        prop_assert_ne!(asked.key(&asked.filter.to_string()), other.key(&other.filter.to_string()));
    }

    #[test]
    fn no_filter_makes_it_panic(filter in any::<Vec<u8>>()) {
        hash_json(&mut Hasher::new(), &filter);
    }
}

fn plain() -> Asked {
    Asked {
        collection: "default".to_owned(),
        target: Err(vec![1.0, 0.0]),
        k: 10,
        metric: String::new(),
        filter: json!({}),
        include: vec!["metadata".to_owned()],
        ef_search: 0,
        recall_target: 0.0,
        exact: false,
    }
}

#[test]
fn defaults_may_be_spelt_out() {
    let short = Asked { collection: String::new(), target: Err(vec![1.0, -0.0]), k: 0, include: Vec::new(), ..plain() };
    assert_eq!(short.key(""), plain().key("{ }"));
}

#[test]
fn large_whole_numbers_are_not_rounded() {
    let key = |filter: &str| plain().key(filter);
    assert_ne!(key(r#"{"n":9007199254740992}"#), key(r#"{"n":9007199254740993}"#));
    assert_ne!(key(r#"{"n":1}"#), key(r#"{"n":"1"}"#));
    assert_ne!(key(r#"{"n":1}"#), key(r#"{"n":true}"#));
    assert_eq!(key(r#"{"n":1e2}"#), key(r#"{"n":100}"#));
    assert_eq!(key(r#"{"n":-0.0}"#), key(r#"{"n":0}"#));
}

#[test]
fn a_tenant_has_keys_of_its_own() {
    let of = |tenant, scope| Key::embed(Audience { tenant, scope }, "c", "1");
    let keys = [
        of(None, "vectors:read"),
        of(Some(""), "vectors:read"),
        of(Some("a"), "vectors:read"),
        of(Some("b"), "vectors:read"),
        of(None, "cache:admin"),
    ];
    for (i, key) in keys.iter().enumerate() {
        assert!(keys[..i].iter().all(|other| other != key), "{i}");
    }
    assert_ne!(Key::embed(READER, "c", "d/e"), Key::embed(READER, "c/d", "e"));
}

#[test]
fn a_resource_is_known_by_host_path_and_the_body_of_a_query() {
    let plain = Key::resource("example.org", "/a?b", None);
    assert_eq!(plain, Key::resource("Example.ORG", "/a?b", None));
    let others = [
        Key::resource("example.com", "/a?b", None),
        Key::resource("example.org", "/a?c", None),
        Key::resource("example.org", "/A?b", None),
        Key::resource("example.org", "/a?b", Some((b"", b""))),
        Key::resource("example.org", "/a?b", Some((b"x", b"y"))),
        Key::resource("example.org", "/a?b", Some((b"", b"xy"))),
        plain.part(),
        plain.variant(&[], &HeaderMap::new()),
    ];
    for (i, one) in others.iter().enumerate() {
        assert!(*one != plain && !others[..i].contains(one), "{i}");
    }
}

#[test]
fn variants_differ_by_the_fields_that_choose() {
    let (foo, bar) = (HeaderName::from_static("foo"), HeaderName::from_static("bar"));
    let request = |lines: &[(&HeaderName, &str)]| -> HeaderMap {
        lines.iter().map(|(name, value)| ((*name).clone(), value.parse().unwrap())).collect()
    };
    let variant = |lines: &[(&HeaderName, &str)]| {
        Key::resource("h", "/", None).variant(&[bar.clone(), foo.clone()], &request(lines))
    };
    assert_eq!(variant(&[(&foo, "1,2"), (&bar, "x")]), variant(&[(&bar, "x"), (&foo, " 1, 2 ")]));
    assert_eq!(variant(&[(&foo, "1"), (&http::header::ACCEPT, "x")]), variant(&[(&foo, "1")]));
    assert_ne!(variant(&[(&foo, "1")]), variant(&[(&bar, "1")]));
    assert_ne!(variant(&[(&foo, "1")]), variant(&[(&foo, "1"), (&bar, "")]));
}
