//! Writing points: insert, NDJSON, update, delete, and reading them back.

use anyhow::{Context, Result};
use bytes::Bytes;
use nearfield_testkit::vectors;
use serde_json::{Value, json};

use crate::space::{API, Space, points, values};

async fn space(name: &str, dimension: usize) -> Result<Space> {
    let space = Space::new(name)?;
    space.create("c", json!({"dimension": dimension})).await?;
    Ok(space)
}

async fn embed(space: &Space, id: &str) -> Result<Value> {
    space.get(&format!("/embed/{id}?collection=c")).await?.expect(200)
}

#[tokio::test]
async fn a_point_reads_back_as_it_was_written() -> Result<()> {
    let space = space("points-read", 5).await?;
    let point =
        json!({"id": "ä/b c", "values": [0.1, -2.5, 3e-5, 0, 7], "metadata": {"deep": {"list": [1, null, "x"]}}});
    space.insert("c", std::slice::from_ref(&point)).await?;
    let read = embed(&space, "%C3%A4%2Fb%20c").await?;
    assert_eq!(read["id"], "ä/b c");
    assert_eq!(values(&read), values(&point));
    assert_eq!(read["metadata"], point["metadata"]);
    assert_eq!(read["version"], 1);
    space.get("/embed/nobody?collection=c").await?.problem(404)?;
    space.get("/embed/nobody?collection=nowhere").await?.problem(404)?;
    Ok(())
}

#[tokio::test]
async fn a_vector_may_be_base64() -> Result<()> {
    let space = space("points-base64", 4).await?;
    let vector = [1.5_f32, -0.25, 1e-7, 3.0];
    space.insert("c", &[json!({"id": "b", "values": vectors::base64(&vector)})]).await?;
    let read = embed(&space, "b").await?;
    assert_eq!(values(&read), vector);
    assert_eq!(read["metadata"], json!({}));
    let search = json!({"collection": "c", "query": vectors::base64(&vector), "k": 1});
    assert_eq!(space.found(search).await?, ["b"]);
    for bad in ["!!!!", "AAAA", &vectors::base64(&vector[..3])] {
        let body = json!({"collection": "c", "vectors": [{"id": "x", "values": bad}]});
        let problem = space.client.post(&format!("{API}/insert")).json(&body).send().await?.problem(400)?;
        assert_eq!(problem["errors"][0]["pointer"], "/vectors/0/values", "{problem}");
    }
    Ok(())
}

#[tokio::test]
async fn an_insert_replaces_the_whole_point() -> Result<()> {
    let space = space("points-upsert", 2).await?;
    space.insert("c", &[json!({"id": "a", "values": [1, 0], "metadata": {"x": 1, "y": 2}})]).await?;
    space.insert("c", &[json!({"id": "a", "values": [0, 1], "metadata": {"x": 3}})]).await?;
    let read = embed(&space, "a").await?;
    assert_eq!(
        (&read["values"], &read["metadata"], &read["version"]),
        (&json!([0.0, 1.0]), &json!({"x": 3}), &json!(2))
    );
    assert_eq!(space.get("/collections/c").await?.expect(200)?["count"], 1);
    let hits = space.search(json!({"collection": "c", "query": [0, 1], "k": 5})).await?;
    assert_eq!(hits["total_results"], 1, "{hits}");
    assert!(hits["results"][0]["score"].as_f64().is_some_and(|s| s > 0.99), "{hits}");
    Ok(())
}

#[tokio::test]
async fn a_refused_insert_changes_nothing() -> Result<()> {
    let space = space("points-atomic", 3).await?;
    let check = async |vectors: Value, status: u16, pointer: &str| -> Result<()> {
        let body = json!({"collection": "c", "vectors": vectors});
        let answer = space.client.post(&format!("{API}/insert")).json(&body).send().await?;
        let problem = answer.problem(status).with_context(|| body.to_string().chars().take(200).collect::<String>())?;
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        Ok(())
    };
    let good = json!({"id": "good", "values": [1, 2, 3]});
    check(json!([good, {"id": "x", "values": [1, 2]}]), 400, "/vectors/1/values").await?;
    check(json!([good, {"id": "x", "values": [1, 2, 3, 4]}]), 400, "/vectors/1/values").await?;
    check(json!([good, {"id": "", "values": [1, 2, 3]}]), 400, "/vectors/1/id").await?;
    check(json!([good, {"id": "é".repeat(129), "values": [1, 2, 3]}]), 400, "/vectors/1/id").await?;
    check(json!([good, {"id": 7, "values": [1, 2, 3]}]), 400, "/vectors/1/id").await?;
    check(json!([good, {"values": [1, 2, 3]}]), 400, "/vectors/1/id").await?;
    check(json!([good, {"id": "x", "values": [1, "two", 3]}]), 400, "/vectors/1/values/1").await?;
    check(json!([good, {"id": "x", "values": [1, 1e39, 3]}]), 400, "/vectors/1/values/1").await?;
    check(json!([good, {"id": "x", "values": [1, 2, 3], "metadata": [1]}]), 400, "/vectors/1/metadata").await?;
    let large = json!({"text": "x".repeat(65 * 1024)});
    check(json!([good, {"id": "x", "values": [1, 2, 3], "metadata": large}]), 413, "/vectors/1/metadata").await?;
    assert_eq!(space.get("/collections/c").await?.expect(200)?["count"], 0);
    space.get("/embed/good?collection=c").await?.problem(404)?;
    Ok(())
}

#[tokio::test]
async fn the_default_collection_is_named_default() -> Result<()> {
    let space = Space::new("points-default")?;
    space.create("default", json!({"dimension": 2})).await?;
    space.write("insert", json!({"vectors": [{"id": "a", "values": [1, 0]}]})).await?;
    assert_eq!(space.found(json!({"query": [1, 0]})).await?, ["a"]);
    assert_eq!(space.get("/embed/a").await?.expect(200)?["id"], "a");
    assert_eq!(space.get("/collections/default").await?.expect(200)?["count"], 1);
    Ok(())
}

fn ndjson(points: &[Value]) -> String {
    points.iter().map(|p| format!("{p}\n")).collect()
}

#[tokio::test]
async fn ndjson_of_any_length_is_streamed_in() -> Result<()> {
    let space = space("points-ndjson", 16).await?;
    let points = points(5, 3000, 16);
    let chunks: Vec<std::io::Result<Bytes>> =
        ndjson(&points).into_bytes().chunks(10_007).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    let request =
        space.client.post(&format!("{API}/insert?collection=c")).header("content-type", "application/x-ndjson");
    let answer = request.stream(futures::stream::iter(chunks)).send().await?.expect(200)?;
    assert_eq!(answer["inserted"], 3000, "{answer}");
    let session = answer["session"].as_str().context("a session")?;
    let described = space.client.get(&format!("{API}/collections/c")).header("nearfield-session", session);
    assert_eq!(described.send().await?.expect(200)?["count"], 3000);
    Ok(())
}

#[tokio::test]
async fn a_bad_ndjson_line_says_which_and_how_many_were_stored() -> Result<()> {
    let space = space("points-ndjson-bad", 4).await?;
    let points = points(6, 5, 4);
    for bad in ["{\"id\":\"x\",\"values\":[1,2]}", "{\"id\":", "null"] {
        let body = format!("{}\n{bad}\n{}", ndjson(&points), ndjson(&points));
        let request = space.client.post(&format!("{API}/insert?collection=c"));
        let answer = request.header("content-type", "application/x-ndjson").body(body).send().await?;
        let problem = answer.problem(400)?;
        let text = problem.to_string();
        assert!(
            text.contains("line 6") || text.contains("line 7") || text.contains("/6") || text.contains("/7"),
            "{problem}"
        );
        let stored = problem["inserted"].as_u64().with_context(|| format!("how many were stored: {problem}"))?;
        assert!(stored <= 5, "{problem}");
    }
    Ok(())
}

#[tokio::test]
async fn an_update_merges_metadata_and_keeps_what_it_does_not_name() -> Result<()> {
    let space = space("points-update", 2).await?;
    space
        .insert("c", &[json!({"id": "a", "values": [1, 0], "metadata": {"x": 1, "y": {"p": 1, "q": 2}, "z": 3}})])
        .await?;
    let patch = json!({"collection": "c", "id": "a", "metadata": {"x": null, "y": {"p": null, "r": 4}, "new": [1]}});
    let answer = space.write("update", patch).await?;
    assert_eq!(answer["version"], 2, "{answer}");
    let read = embed(&space, "a").await?;
    assert_eq!(read["metadata"], json!({"y": {"q": 2, "r": 4}, "z": 3, "new": [1]}));
    assert_eq!(read["values"], json!([1.0, 0.0]));
    let answer = space.write("update", json!({"collection": "c", "id": "a", "values": [0, 1]})).await?;
    assert_eq!(answer["version"], 3, "{answer}");
    let read = embed(&space, "a").await?;
    assert_eq!((&read["values"], &read["metadata"]["z"]), (&json!([0.0, 1.0]), &json!(3)));
    Ok(())
}

#[tokio::test]
async fn an_update_of_another_version_is_a_conflict() -> Result<()> {
    let space = space("points-version", 2).await?;
    space.insert("c", &[json!({"id": "a", "values": [1, 0]})]).await?;
    let update =
        |version: u64| json!({"collection": "c", "id": "a", "metadata": {"v": version}, "if_version": version});
    space.write("update", update(1)).await?;
    let request = space.client.post(&format!("{API}/update")).json(&update(1));
    request.send().await?.problem(409)?;
    space.write("update", update(2)).await?;
    assert_eq!(embed(&space, "a").await?["metadata"], json!({"v": 2}));
    let absent = json!({"collection": "c", "id": "nobody", "metadata": {}});
    space.client.post(&format!("{API}/update")).json(&absent).send().await?.problem(404)?;
    let short = json!({"collection": "c", "id": "a", "values": [1]});
    let problem = space.client.post(&format!("{API}/update")).json(&short).send().await?.problem(400)?;
    assert_eq!(problem["errors"][0]["pointer"], "/values", "{problem}");
    Ok(())
}

#[tokio::test]
async fn points_are_deleted_by_id_and_by_filter() -> Result<()> {
    let space = space("points-delete", 4).await?;
    space.insert("c", &points(7, 30, 4)).await?;
    let by_ids = json!({"collection": "c", "ids": ["p0001", "p0002", "nobody", "p0001"]});
    assert_eq!(space.write("delete", by_ids).await?["deleted"], 2);
    space.get("/embed/p0001?collection=c").await?.problem(404)?;
    let by_filter = json!({"collection": "c", "filter": {"type": "task"}});
    assert_eq!(space.write("delete", by_filter).await?["deleted"], 10);
    let answer = space.search(json!({"collection": "c", "query": [1, 1, 1, 1], "k": 100})).await?;
    assert_eq!(answer["total_results"], 18, "{answer}");
    assert_eq!(space.get("/collections/c").await?.expect(200)?["count"], 18);
    let again = json!({"collection": "c", "filter": {"type": "task"}});
    assert_eq!(space.write("delete", again).await?["deleted"], 0);
    for bad in [json!({"collection": "c"}), json!({"collection": "c", "filter": {"x": {"$near": 1}}})] {
        space.client.post(&format!("{API}/delete")).json(&bad).send().await?.problem(400)?;
    }
    // A deleted id may be used again, from version 1 or a later one, with nothing of its past.
    space.insert("c", &[json!({"id": "p0001", "values": [1, 1, 1, 1]})]).await?;
    assert_eq!(embed(&space, "p0001").await?["metadata"], json!({}));
    Ok(())
}

#[tokio::test]
async fn writes_to_a_collection_that_is_not_there_are_404() -> Result<()> {
    let space = Space::new("points-nowhere")?;
    for (call, body) in [
        ("insert", json!({"collection": "nowhere", "vectors": [{"id": "a", "values": [1]}]})),
        ("update", json!({"collection": "nowhere", "id": "a", "metadata": {}})),
        ("delete", json!({"collection": "nowhere", "ids": ["a"]})),
    ] {
        space.client.post(&format!("{API}/{call}")).json(&body).send().await?.problem(404)?;
    }
    Ok(())
}
