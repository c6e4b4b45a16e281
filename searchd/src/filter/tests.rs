use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn check(filter: &Value, metadata: &Value, expected: bool) {
    let filter = parse(filter.to_string().as_bytes(), "/filter").unwrap();
    assert_eq!(filter.matches(metadata), expected, "{filter:?} on {metadata}");
}

#[test]
fn operators_mean_what_the_contract_says() {
    let point = json!({"type": "task", "year": 2021, "tags": ["a", "b"], "flag": true, "nothing": null,
        "nested": {"deep": {"x": 1.5}}, "list": [{"n": 1}, {"n": 2}], "empty": []});
    for (filter, expected) in [
        (json!({}), true),
        (json!({"type": "task"}), true),
        (json!({"type": "other"}), false),
        (json!({"type": 1}), false),
        (json!({"year": {"$gte": 2020, "$lt": 2024}}), true),
        (json!({"year": {"$gt": 2021}}), false),
        (json!({"year": {"$gte": 2021.0}}), true),
        (json!({"year": {"$lte": "2021"}}), false),
        (json!({"year": "2021"}), false),
        (json!({"year": 2021.0}), true),
        (json!({"year": {"$in": [1, 2021]}}), true),
        (json!({"year": {"$in": []}}), false),
        (json!({"year": {"$nin": []}}), true),
        (json!({"year": {"$nin": [2021]}}), false),
        (json!({"absent": {"$nin": [2021]}}), true),
        (json!({"absent": {"$ne": 1}}), true),
        (json!({"absent": {"$gt": 1}}), false),
        (json!({"absent": null}), false),
        (json!({"nothing": null}), true),
        (json!({"nothing": {"$exists": true}}), true),
        (json!({"absent": {"$exists": false}}), true),
        (json!({"absent": {"$exists": true}}), false),
        (json!({"year": {"$exists": false}}), false),
        (json!({"empty": {"$exists": true}}), true),
        (json!({"empty": {"$ne": 1}}), true),
        (json!({"tags": "a"}), true),
        (json!({"tags": {"$ne": "a"}}), false),
        (json!({"tags": {"$ne": "c"}}), true),
        (json!({"tags": {"$in": ["z", "b"]}}), true),
        (json!({"tags": {"$gt": "a"}}), true),
        (json!({"nested.deep.x": {"$gt": 1}}), true),
        (json!({"nested.deep.y": {"$exists": true}}), false),
        (json!({"nested.deep": {"$exists": true}}), true),
        (json!({"list.n": 2}), true),
        (json!({"list.n": 3}), false),
        (json!({"flag": true}), true),
        (json!({"flag": 1}), false),
        (json!({"$not": {"type": "task"}}), false),
        (json!({"$not": {"absent": "task"}}), true),
        (json!({"year": {"$not": {"$gt": 2020}}}), false),
        (json!({"$or": [{"type": "x"}, {"year": 2021}]}), true),
        (json!({"$and": [{"type": "x"}, {"year": 2021}]}), false),
        (json!({"type": "task", "year": 1}), false),
    ] {
        check(&filter, &point, expected);
    }
}

#[test]
fn big_integers_compare_exactly() {
    let point = json!({"n": 9_007_199_254_740_993_u64, "max": u64::MAX});
    check(&json!({"n": 9_007_199_254_740_992_u64}), &point, false);
    check(&json!({"n": {"$gt": 9_007_199_254_740_992.0}}), &point, true);
    check(&json!({"max": {"$lt": 1e20}}), &point, true);
    check(&json!({"max": {"$gt": -1e300}}), &point, true);
}

#[test]
fn errors_name_the_place() {
    for (filter, pointer) in [
        (json!([]), "/filter"),
        (json!({"year": {"$foo": 1}}), "/filter/year/$foo"),
        (json!({"year": {"foo": 1}}), "/filter/year/foo"),
        (json!({"$nor": []}), "/filter/$nor"),
        (json!({"$and": []}), "/filter/$and"),
        (json!({"$or": [{"a": 1}, 7]}), "/filter/$or/1"),
        (json!({"a": [1]}), "/filter/a"),
        (json!({"a": {}}), "/filter/a"),
        (json!({"a/b~c": {"$in": 3}}), "/filter/a~1b~0c/$in"),
        (json!({"a": {"$in": [1, {}]}}), "/filter/a/$in/1"),
        (json!({"a": {"$gt": true}}), "/filter/a/$gt"),
        (json!({"a": {"$exists": 1}}), "/filter/a/$exists"),
    ] {
        assert_eq!(parse(filter.to_string().as_bytes(), "/filter").unwrap_err().field, pointer);
    }
    assert_eq!(parse(b"{", "/filter").unwrap_err().field, "/filter");
}

#[test]
fn depth_and_size_are_limited() {
    let deep = |levels| format!("{}{}{}", "{\"$not\":".repeat(levels), "{\"a\":1}", "}".repeat(levels));
    parse(deep(MAX_DEPTH).as_bytes(), "").unwrap();
    parse(deep(60).as_bytes(), "").unwrap_err();
    parse(deep(50_000).as_bytes(), "").unwrap_err();
    let wide = json!({"$or": vec![json!({"a": 1}); MAX_NODES]});
    parse(wide.to_string().as_bytes(), "").unwrap_err();
}

#[test]
fn canonical_texts_do_not_depend_on_order_or_spelling() {
    let canonical = |filter: Value| parse(filter.to_string().as_bytes(), "").unwrap().canonical();
    assert_eq!(canonical(json!({"a": 1, "b": 2})), canonical(json!({"$and": [{"b": {"$eq": 2.0}}, {"a": 1}]})));
    assert_eq!(canonical(json!({"a": {"$in": [2, 1, 1]}})), canonical(json!({"a": {"$in": [1, 2]}})));
    assert_ne!(canonical(json!({"a": 1})), canonical(json!({"a": "1"})));
    assert_ne!(canonical(json!({"a.b": 1})), canonical(json!({"a": 1})));
}

fn scalars() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..3).prop_map(Value::from),
        (-3i64..3).prop_map(|n| Value::from(n as f64 / 2.0)),
        "[ab]{0,2}".prop_map(Value::from),
    ]
}

fn filters() -> impl Strategy<Value = Value> {
    let field = ("[abc](\\.[ab])?", prop::sample::select(vec!["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), scalars());
    let leaf = field.prop_map(|(path, operator, value)| json!({path: {operator: value}}));
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..3).prop_map(|all| json!({"$and": all})),
            prop::collection::vec(inner.clone(), 1..3).prop_map(|any| json!({"$or": any})),
            inner.prop_map(|filter| json!({"$not": filter})),
        ]
    })
}

fn points() -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        scalars(),
        prop::collection::vec(scalars(), 0..3).prop_map(Value::from),
        prop::collection::hash_map("[ab]", scalars(), 0..2).prop_map(|map| json!(map)),
    ];
    prop::collection::hash_map("[abc]", value, 0..3).prop_map(|map| json!(map))
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,60}") {
        let _ = parse(text.as_bytes(), "/filter");
    }

    #[test]
    fn not_is_the_opposite_and_canonical_forms_mean_the_same(filter in filters(), point in points()) {
        let Ok(parsed) = parse(filter.to_string().as_bytes(), "") else { return Ok(()) };
        let negated = parse(json!({"$not": filter}).to_string().as_bytes(), "").unwrap();
        prop_assert_ne!(parsed.matches(&point), negated.matches(&point));
        let twice = parse(json!({"$and": [filter, filter]}).to_string().as_bytes(), "").unwrap();
        prop_assert_eq!(parsed.canonical(), twice.canonical());
        prop_assert_eq!(parsed.matches(&point), twice.matches(&point));
    }
}
