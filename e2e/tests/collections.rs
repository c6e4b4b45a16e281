//! Creating, listing, describing and deleting collections.

use anyhow::Result;
use nearfield_testkit::Claims;
use serde_json::{Value, json};

use crate::space::{API, Space, dev, points};

fn listed(answer: &Value) -> Vec<&str> {
    let collections = answer["collections"].as_array().map(Vec::as_slice).unwrap_or_default();
    collections.iter().filter_map(|c| c["name"].as_str()).collect()
}

#[tokio::test]
async fn a_collection_lives_from_put_to_delete() -> Result<()> {
    let space = Space::new("collections-life")?;
    let path = format!("{API}/collections/shoes");
    let settings = json!({"dimension": 4, "metric": "euclidean", "quantization": "none"});
    space.client.put(&path).json(&settings).send().await?.expect(201)?;
    space.client.put(&path).json(&settings).send().await?.expect(200)?;
    let different = json!({"dimension": 5, "metric": "euclidean", "quantization": "none"});
    space.client.put(&path).json(&different).send().await?.problem(409)?;

    space.insert("shoes", &points(1, 10, 4)).await?;
    let described = space.get("/collections/shoes").await?.expect(200)?;
    assert_eq!(described["name"], "shoes", "{described}");
    assert_eq!(described["dimension"], 4, "{described}");
    assert_eq!(described["metric"], "euclidean", "{described}");
    assert_eq!(described["quantization"], "none", "{described}");
    assert_eq!(described["count"], 10, "{described}");
    assert!(described["version"].as_u64().is_some_and(|v| v > 0), "{described}");
    assert!(described["status"].is_string(), "{described}");
    assert!(described["bytes"]["memory"].is_u64() && described["bytes"]["disk"].is_u64(), "{described}");

    let all = space.get("/collections").await?.expect(200)?;
    assert_eq!(listed(&all), ["shoes"], "{all}");

    let deleted = space.client.delete(&path).send().await?;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    space.client.get(&path).header("cache-control", "no-cache").send().await?.problem(404)?;
    let search = json!({"collection": "shoes", "query": [1, 0, 0, 0]});
    space.client.post(&format!("{API}/search")).json(&search).send().await?.problem(404)?;
    space.client.delete(&path).send().await?.problem(404)?;
    Ok(())
}

#[tokio::test]
async fn a_deleted_collection_comes_back_empty() -> Result<()> {
    let space = Space::new("collections-again")?;
    for dimension in [3, 6] {
        space.fill("c", json!({"dimension": dimension}), &points(2, 12, dimension)).await?;
        let query = vec![0.5; dimension];
        let answer = space.search(json!({"collection": "c", "query": query, "k": 50})).await?;
        assert_eq!(answer["total_results"], 12, "{answer}");
        let deleted = space.client.delete(&format!("{API}/collections/c")).send().await?;
        assert_eq!(deleted.status, 204);
    }
    Ok(())
}

#[tokio::test]
async fn all_but_the_dimension_has_defaults() -> Result<()> {
    let space = Space::new("collections-defaults")?;
    space.create("plain", json!({"dimension": 8})).await?;
    let described = space.get("/collections/plain").await?.expect(200)?;
    assert_eq!(described["metric"], "cosine", "{described}");
    assert_eq!(described["hnsw"]["m"], 16, "{described}");
    assert_eq!(described["hnsw"]["ef_construction"], 128, "{described}");
    assert_eq!(described["ef_search"], 64, "{described}");
    // Said or left out, a default is the same collection.
    let said = json!({"dimension": 8, "metric": "cosine", "hnsw": {"m": 16, "ef_construction": 128}});
    space.client.put(&format!("{API}/collections/plain")).json(&said).send().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn recall_is_asked_for_and_measured() -> Result<()> {
    let space = Space::new("collections-recall")?;
    space.fill("c", json!({"dimension": 8, "recall_target": 0.98}), &points(3, 200, 8)).await?;
    let described = space.get("/collections/c").await?.expect(200)?;
    assert_eq!((&described["recall_target"], &described["ef_search"]), (&json!(0.98), &Value::Null), "{described}");

    let measured = space.get("/collections/c/recall?samples=20").await?.expect(200)?;
    // So few points are all compared.
    assert_eq!(measured["recall_at_10"], 1.0, "{measured}");
    assert_eq!((&measured["samples"], &measured["ef"]), (&json!(20), &json!(0)), "{measured}");
    assert!(measured["took_ms"].is_number(), "{measured}");
    space.get("/collections/nowhere/recall").await?.problem(404)?;
    space.get("/collections/c/recall?samples=0").await?.problem(400)?;

    let search = json!({"collection": "c", "query": [1, 0, 0, 0, 0, 0, 0, 0], "recall_target": 0.9});
    assert_eq!(space.search(search).await?["total_results"], 10);
    let both = json!({"collection": "c", "query": [1, 0, 0, 0, 0, 0, 0, 0], "recall_target": 0.9, "ef_search": 9});
    let problem = space.client.post(&format!("{API}/search")).json(&both).send().await?.problem(400)?;
    let pointers: Vec<_> = problem["errors"].as_array().into_iter().flatten().map(|e| &e["pointer"]).collect();
    assert_eq!(pointers, ["/ef_search", "/recall_target"], "{problem}");
    Ok(())
}

#[tokio::test]
async fn bad_settings_are_refused_where_they_stand() -> Result<()> {
    let space = Space::new("collections-bad")?;
    let check = async |settings: Value, pointer: &str| -> Result<()> {
        let answer = space.client.put(&format!("{API}/collections/c")).json(&settings).send().await?;
        let problem = answer.problem(400)?;
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{settings}: {problem}");
        assert!(problem["errors"][0]["detail"].as_str().is_some_and(|d| !d.is_empty()), "{problem}");
        Ok(())
    };
    check(json!({"dimension": 0}), "/dimension").await?;
    check(json!({"dimension": 1_000_000}), "/dimension").await?;
    check(json!({"dimension": -3}), "/dimension").await?;
    check(json!({"dimension": "four"}), "/dimension").await?;
    check(json!({"dimension": 4, "metric": "manhattan"}), "/metric").await?;
    check(json!({"dimension": 4, "recall_target": 1.5}), "/recall_target").await?;
    check(json!({"dimension": 4, "recall_target": 0.9, "ef_search": 9}), "/ef_search").await?;
    check(json!({"dimension": 4, "quantization": "int3"}), "/quantization").await?;
    check(json!({"dimension": 4, "hnsw": {"m": -1}}), "/hnsw/m").await?;
    space.client.get(&format!("{API}/collections/c")).send().await?.problem(404)?;
    space.client.put(&format!("{API}/collections/c")).json(&json!({})).send().await?.problem(400)?;
    Ok(())
}

#[tokio::test]
async fn names_are_lower_case_words() -> Result<()> {
    let space = Space::new("collections-names")?;
    let settings = json!({"dimension": 2});
    for bad in ["Shoes", "-shoes", "sh%20oes", "sh.oes", "%2e%2e", &"x".repeat(64)] {
        let answer = space.client.put(&format!("{API}/collections/{bad}")).json(&settings).send().await?;
        answer.problem(400)?;
    }
    for good in ["0", "a_b-c", &"x".repeat(63)] {
        space.create(good, settings.clone()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_name_belongs_to_its_tenant() -> Result<()> {
    let (a, b) = (Space::new("tenant-a")?, Space::new("tenant-b")?);
    a.fill("same", json!({"dimension": 3}), &points(3, 5, 3)).await?;
    b.client.get(&format!("{API}/collections/same")).send().await?.problem(404)?;
    assert_eq!(b.get("/collections").await?.expect(200)?["collections"], json!([]));
    b.fill("same", json!({"dimension": 7}), &points(4, 9, 7)).await?;
    assert_eq!(a.get("/collections/same").await?.expect(200)?["count"], 5);
    assert_eq!(b.get("/collections/same").await?.expect(200)?["count"], 9);
    b.client.delete(&format!("{API}/collections/same")).send().await?;
    assert_eq!(a.get("/collections/same").await?.expect(200)?["count"], 5);
    // A caller without a tenant is one more stranger.
    let stranger = dev()?.client_as(a.client.protocol(), &Claims::all())?;
    stranger.get(&format!("{API}/collections/same")).send().await?.problem(404)?;
    Ok(())
}
