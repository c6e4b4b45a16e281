//! Searching: against the exact answer, by vector and by id, and every way to ask wrongly.

use anyhow::Result;
use nearfield_testkit::{Metric, nearest, recall};
use serde_json::{Value, json};

use crate::space::{API, Space, ids, points, query_escape, values};

async fn filled(name: &str, metric: Metric, count: usize, dimension: usize) -> Result<(Space, Vec<Value>)> {
    let space = Space::new(name)?;
    let points = points(11, count, dimension);
    space.fill("c", json!({"dimension": dimension, "metric": metric.as_str()}), &points).await?;
    Ok((space, points))
}

fn exact(metric: Metric, query: &[f32], points: &[Value], k: usize) -> Vec<nearfield_testkit::Hit> {
    let vectors: Vec<(String, Vec<f32>)> =
        points.iter().map(|p| (p["id"].as_str().unwrap_or_default().to_owned(), values(p))).collect();
    nearest(metric, query, vectors.iter().map(|(id, v)| (id.as_str(), v.as_slice())), k)
}

#[tokio::test]
async fn every_metric_finds_what_the_oracle_finds() -> Result<()> {
    for metric in Metric::ALL {
        let (space, points) = filled(&format!("search-{}", metric.as_str()), metric, 2000, 24).await?;
        let mut total = 0.0;
        let queries = nearfield_testkit::vectors::clustered(99, 20, 24, 4);
        for query in &queries {
            let oracle = exact(metric, query, &points, 10);
            let body = json!({"collection": "c", "query": query, "k": 10});
            let answer = space.search(body.clone()).await?;
            let found = ids(&answer);
            total += recall(oracle.iter().map(|h| h.id.as_str()), found.iter().map(String::as_str));
            check_order(metric, &answer);

            let mut body = body;
            body["exact"] = json!(true);
            let answer = space.search(body).await?;
            let expected: Vec<&str> = oracle.iter().map(|h| h.id.as_str()).collect();
            assert_eq!(ids(&answer), expected, "{}", metric.as_str());
            for (hit, oracle) in answer["results"].as_array().into_iter().flatten().zip(&oracle) {
                let score = hit["score"].as_f64().unwrap_or(f64::NAN);
                assert!((score - oracle.score).abs() <= 1e-3 * oracle.score.abs().max(1.0), "{score} for {oracle:?}");
            }
        }
        let recall = total / queries.len() as f64;
        assert!(recall >= 0.95, "recall@10 {recall} with {}", metric.as_str());
    }
    Ok(())
}

fn check_order(metric: Metric, answer: &Value) {
    let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(!results.is_empty());
    for pair in results.windows(2) {
        let (a, b) = (pair[0]["score"].as_f64(), pair[1]["score"].as_f64());
        let ordered = if metric == Metric::Euclidean { a <= b } else { a >= b };
        assert!(ordered, "{} then {}", pair[0], pair[1]);
    }
}

#[tokio::test]
async fn k_is_bounded_and_never_padded() -> Result<()> {
    let (space, _) = filled("search-k", Metric::Cosine, 40, 4).await?;
    for (k, expected) in [(1, 1), (39, 39), (40, 40), (10_000, 40)] {
        let answer = space.search(json!({"collection": "c", "query": [1, 2, 3, 4], "k": k})).await?;
        assert_eq!((ids(&answer).len(), &answer["total_results"]), (expected, &json!(expected)));
    }
    let answer = space.search(json!({"collection": "c", "query": [1, 2, 3, 4]})).await?;
    assert_eq!(ids(&answer).len(), 10, "k is 10 when not given");
    assert!(answer["collection_version"].as_u64().is_some_and(|v| v > 0), "{answer}");
    for k in [json!(0), json!(-1), json!(10_001), json!(1.5), json!("ten"), json!(1e30)] {
        refused(&space, json!({"collection": "c", "query": [1, 2, 3, 4], "k": k}), "/k").await?;
    }
    Ok(())
}

async fn refused(space: &Space, body: Value, pointer: &str) -> Result<()> {
    let answer = space.client.post(&format!("{API}/search")).json(&body).send().await?;
    let problem = answer.problem(400)?;
    assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
    Ok(())
}

#[tokio::test]
async fn a_bad_search_is_refused_where_it_is_wrong() -> Result<()> {
    let (space, _) = filled("search-bad", Metric::Cosine, 5, 4).await?;
    refused(&space, json!({"collection": "c", "query": [1, 2, 3]}), "/query").await?;
    refused(&space, json!({"collection": "c", "query": [1, 2, 3, null]}), "/query/3").await?;
    refused(&space, json!({"collection": "c", "query": [1, 2, 3, 4], "metric": "dot"}), "/metric").await?;
    refused(&space, json!({"collection": "c", "query": [1, 2, 3, 4], "metric": "far"}), "/metric").await?;
    refused(&space, json!({"collection": "c", "query": [1, 2, 3, 4], "include": ["all"]}), "/include/0").await?;
    refused(
        &space,
        json!({"collection": "c", "query": [1, 2, 3, 4], "filter": {"x": {"$like": 1}}}),
        "/filter/x/$like",
    )
    .await?;
    for neither_or_both in
        [json!({"collection": "c"}), json!({"collection": "c", "query": [1, 2, 3, 4], "query_vector_id": "p0000"})]
    {
        space.client.post(&format!("{API}/search")).json(&neither_or_both).send().await?.problem(400)?;
    }
    let absent = json!({"collection": "c", "query_vector_id": "nobody"});
    space.client.post(&format!("{API}/search")).json(&absent).send().await?.problem(404)?;
    // The collection's own metric may be said.
    let own = json!({"collection": "c", "query": [1, 2, 3, 4], "metric": "cosine"});
    assert_eq!(space.found(own).await?.len(), 5);
    Ok(())
}

#[tokio::test]
async fn a_search_by_id_leaves_the_point_itself_out() -> Result<()> {
    let (space, points) = filled("search-id", Metric::Euclidean, 200, 8).await?;
    let oracle = exact(Metric::Euclidean, &values(&points[17]), &points, 6);
    assert_eq!(oracle[0].id, "p0017");
    let expected: Vec<&str> = oracle[1..].iter().map(|h| h.id.as_str()).collect();
    let body = json!({"collection": "c", "query_vector_id": "p0017", "k": 5, "exact": true});
    assert_eq!(space.found(body).await?, expected);
    let answer = space.get("/search?collection=c&query_vector_id=p0017&k=5").await?.expect(200)?;
    assert_eq!(ids(&answer), expected);
    Ok(())
}

#[tokio::test]
async fn a_search_in_the_query_string_is_the_same_search() -> Result<()> {
    let (space, _) = filled("search-get", Metric::Cosine, 100, 4).await?;
    let filter = r#"{"type":"task","year":{"$gte":2003}}"#;
    let posted = space
        .search(json!({"collection": "c", "query_vector_id": "p0004", "k": 7, "filter": serde_json::from_str::<Value>(filter)?}))
        .await?;
    let path = format!("/search?collection=c&query_vector_id=p0004&k=7&metric=cosine&filter={}", query_escape(filter));
    let got = space.get(&path).await?.expect(200)?;
    assert_eq!(got["results"], posted["results"]);
    assert!(!ids(&got).is_empty());
    for bad in ["k=zero", "k=0", "metric=dot", "filter=%7B", "filter=%5B%5D"] {
        let path = format!("{API}/search?collection=c&query_vector_id=p0004&{bad}");
        space.client.get(&path).send().await?.problem(400)?;
    }
    space.client.get(&format!("{API}/search?collection=c")).send().await?.problem(400)?;
    Ok(())
}

#[tokio::test]
async fn what_comes_with_a_hit_is_chosen() -> Result<()> {
    let (space, points) = filled("search-include", Metric::Dot, 20, 4).await?;
    let search = async |include: Option<Value>| -> Result<Value> {
        let mut body = json!({"collection": "c", "query": [1, 0, 0, 0], "k": 1});
        if let Some(include) = include {
            body["include"] = include;
        }
        Ok(space.search(body).await?["results"][0].clone())
    };
    let plain = search(None).await?;
    let point = points.iter().find(|p| p["id"] == plain["id"]).cloned().unwrap_or_default();
    assert_eq!((&plain["metadata"], &plain["values"]), (&point["metadata"], &Value::Null));
    let both = search(Some(json!(["metadata", "values"]))).await?;
    assert_eq!((&both["metadata"], values(&both)), (&point["metadata"], values(&point)));
    let only_values = search(Some(json!(["values"]))).await?;
    assert_eq!((&only_values["metadata"], values(&only_values)), (&Value::Null, values(&point)));
    Ok(())
}

#[tokio::test]
async fn ties_break_by_id() -> Result<()> {
    let space = Space::new("search-ties")?;
    let twins: Vec<Value> = (0..60).rev().map(|i| json!({"id": format!("t{i:02}"), "values": [1, 1]})).collect();
    space.fill("c", json!({"dimension": 2}), &twins).await?;
    let expected: Vec<String> = (0..60).map(|i| format!("t{i:02}")).collect();
    assert_eq!(space.found(json!({"collection": "c", "query": [1, 1], "k": 60})).await?, expected);
    assert_eq!(space.found(json!({"collection": "c", "query": [1, 1], "k": 7, "exact": true})).await?, expected[..7]);
    Ok(())
}

#[tokio::test]
async fn every_quantization_answers() -> Result<()> {
    let points = points(12, 600, 64);
    for quantization in ["none", "f16", "bf16", "int8", "binary", "pq"] {
        let space = Space::new(&format!("search-q-{quantization}"))?;
        space.fill("c", json!({"dimension": 64, "quantization": quantization}), &points).await?;
        let mut total = 0.0;
        for point in points.iter().step_by(30) {
            let query = values(point);
            let oracle = exact(Metric::Cosine, &query, &points, 10);
            let found = space.found(json!({"collection": "c", "query": query, "k": 10})).await?;
            total += recall(oracle.iter().map(|h| h.id.as_str()), found.iter().map(String::as_str)) / 20.0;
        }
        assert!(total >= 0.95, "recall@10 {total} with {quantization}");
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_answers_each_search_on_its_own() -> Result<()> {
    let (space, _) = filled("search-batch", Metric::Cosine, 50, 4).await?;
    let one = json!({"collection": "c", "query": [1, 0, 0, 0], "k": 3});
    let wrong = json!({"collection": "c", "query": [1, 0, 0], "k": 3});
    let nowhere = json!({"collection": "nowhere", "query": [1, 0, 0, 0], "k": 3});
    let body = json!({"searches": [one, wrong, nowhere, {"collection": "c", "query_vector_id": "p0001"}]});
    let answer = space.client.post(&format!("{API}/search/batch")).json(&body).send().await?.expect(200)?;
    let responses = answer["responses"].as_array().cloned().unwrap_or_default();
    assert_eq!(responses.len(), 4, "{answer}");
    assert_eq!(responses[0]["results"], space.search(one).await?["results"]);
    assert_eq!(responses[1]["status"], 400, "{answer}");
    assert_eq!(responses[2]["status"], 404, "{answer}");
    assert_eq!(ids(&responses[3]).len(), 10, "{answer}");
    for bad in [json!({}), json!({"searches": vec![json!({}); 1000]}), json!({"searches": "all"})] {
        space.client.post(&format!("{API}/search/batch")).json(&bad).send().await?.problem(400)?;
    }
    Ok(())
}
