//! Every filter of the contract against an independent reading of it, and random ones beside.

use std::collections::BTreeSet;

use anyhow::Result;
use nearfield_testkit::matches;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::space::{API, Space, points};

const COUNT: usize = 300;

async fn filled(name: &str) -> Result<(Space, Vec<Value>)> {
    let space = Space::new(name)?;
    let points = points(21, COUNT, 4);
    space.fill("c", json!({"dimension": 4}), &points).await?;
    Ok((space, points))
}

/// The product and the oracle must admit the same points.
async fn check(space: &Space, points: &[Value], filter: &Value) -> Result<()> {
    let expected: BTreeSet<String> = points
        .iter()
        .filter(|p| matches(filter, &p["metadata"]))
        .map(|p| p["id"].as_str().unwrap_or_default().to_owned())
        .collect();
    let body = json!({"collection": "c", "query": [1, 1, 1, 1], "k": COUNT, "filter": filter, "include": ["metadata"]});
    let found: BTreeSet<String> = space.found(body).await?.into_iter().collect();
    assert_eq!(found, expected, "{filter}");
    Ok(())
}

#[tokio::test]
async fn each_operator_admits_what_the_contract_says() -> Result<()> {
    let (space, points) = filled("filters-each").await?;
    for filter in [
        json!({}),
        json!({"type": "task"}),
        json!({"type": "task", "done": true}),
        json!({"year": {"$gte": 2010, "$lt": 2014}}),
        json!({"year": {"$eq": 2001}}),
        json!({"year": 2001.0}),
        json!({"year": {"$gt": "2003"}}),
        json!({"year": {"$ne": 2001}}),
        json!({"score": {"$lte": 3.125}}),
        json!({"score": {"$exists": false}}),
        json!({"parent": {"$exists": true}}),
        json!({"parent": null}),
        json!({"type": {"$in": ["task", "image", 7]}}),
        json!({"type": {"$in": []}}),
        json!({"type": {"$nin": ["task", "image"]}}),
        json!({"score": {"$nin": [0.125]}}),
        json!({"tags": "t3"}),
        json!({"tags": {"$in": ["t3", "t9"]}}),
        json!({"nested.depth": 3}),
        json!({"nested.depth": {"$gt": 1, "$lte": 3}}),
        json!({"nested.nothing": {"$exists": false}}),
        json!({"$and": [{"type": "note"}, {"done": false}]}),
        json!({"$or": [{"type": "note"}, {"year": {"$lt": 2005}}]}),
        json!({"$not": {"tags": "t1"}}),
        json!({"$not": {"$or": [{"type": "task"}, {"score": {"$exists": true}}]}}),
        json!({"type": "task", "$or": [{"done": true}, {"nested.depth": 4}]}),
        json!({"nothing": {"$ne": 1}}),
        json!({"nothing": {"$lt": 1}}),
    ] {
        check(&space, &points, &filter).await?;
    }
    Ok(())
}

#[tokio::test]
async fn random_filters_admit_what_the_oracle_admits() -> Result<()> {
    let (space, points) = filled("filters-random").await?;
    let seed = 20_261_122;
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..150 {
        let filter = any_filter(&mut random, 3);
        check(&space, &points, &filter).await?;
    }
    Ok(())
}

fn any_filter(random: &mut StdRng, depth: usize) -> Value {
    let choice = if depth == 0 { 0 } else { random.random_range(0..8) };
    match choice {
        1 => json!({"$and": some_filters(random, depth)}),
        2 => json!({"$or": some_filters(random, depth)}),
        3 => json!({"$not": any_filter(random, depth - 1)}),
        _ => condition(random),
    }
}

fn some_filters(random: &mut StdRng, depth: usize) -> Vec<Value> {
    (0..random.random_range(1..4)).map(|_| any_filter(random, depth - 1)).collect()
}

fn condition(random: &mut StdRng) -> Value {
    let (field, values): (&str, Vec<Value>) = match random.random_range(0..7) {
        0 => ("type", vec![json!("task"), json!("note"), json!("image"), json!(3)]),
        1 => ("year", vec![json!(2003), json!(2012), json!("2006"), json!(2012.0), json!(2012.5)]),
        2 => ("score", vec![json!(0.125), json!(1), json!(20.5), json!("1"), Value::Null]),
        3 => ("tags", vec![json!("t1"), json!("t4"), json!("t10"), json!(1)]),
        4 => ("nested.depth", vec![json!(0), json!(2), json!(4), json!(9)]),
        5 => ("done", vec![json!(true), json!(false), json!("true")]),
        _ => ("parent", vec![Value::Null, json!(1)]),
    };
    let value = values.choose(random).cloned().unwrap_or_default();
    let operator = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", ""].choose(random).copied();
    match operator.unwrap_or_default() {
        "" => json!({ field: value }),
        "$exists" => json!({ field: {"$exists": random.random_bool(0.5)} }),
        operator @ ("$in" | "$nin") => json!({ field: {operator: [value, values[0]]} }),
        // Only numbers and strings have an order.
        "$gt" | "$gte" | "$lt" | "$lte" if value.is_null() || value.is_boolean() => json!({ field: {"$ne": value} }),
        operator => json!({ field: {operator: value} }),
    }
}

#[tokio::test]
async fn a_tight_filter_still_finds_k() -> Result<()> {
    let (space, points) = filled("filters-tight").await?;
    // One in 25 of the years, and far from the query: an index walk alone would not come by them.
    let filter = json!({"year": 2011});
    let expected = points.iter().filter(|p| matches(&filter, &p["metadata"])).count();
    assert!(expected >= 5);
    let body = json!({"collection": "c", "query": [-9, 9, -9, 9], "k": 5, "filter": filter});
    assert_eq!(space.found(body).await?.len(), 5);
    Ok(())
}

#[tokio::test]
async fn a_bad_filter_is_refused() -> Result<()> {
    let (space, _) = filled("filters-bad").await?;
    let mut deep = json!({"type": "task"});
    for _ in 0..500 {
        deep = json!({ "$not": deep });
    }
    for filter in [
        json!({"type": {"$regex": "t.*"}}),
        json!({"$nor": [{"type": "task"}]}),
        json!({"$and": {"type": "task"}}),
        json!({"$or": ["type"]}),
        json!({"$not": 1}),
        json!({"type": {"$in": "task"}}),
        json!({"type": {"$exists": "yes"}}),
        json!("task"),
        json!([]),
        deep,
    ] {
        let body = json!({"collection": "c", "query": [1, 1, 1, 1], "filter": filter});
        space.client.post(&format!("{API}/search")).json(&body).send().await?.problem(400)?;
    }
    Ok(())
}
