//! `nearfield import` and `nearfield export` against a real server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::{Claims, Dev, Process, Protocol, binary, eventually};
use serde_json::{Value, json};

use crate::run::{against, dev};

/// `points` lines of JSON, vectors of four numbers.
fn lines(points: usize) -> String {
    let mut text = String::new();
    for number in 0..points {
        let values = [number as f32 * 0.1, -1.5, 1e-7, number as f32];
        let metadata = json!({"n": number, "deep": {"s": "é\n"}});
        let point = json!({"id": format!("p/{number}"), "values": values, "metadata": metadata});
        writeln!(text, "{point}").expect("a string takes it");
    }
    text
}

/// A collection's points by id.
fn exported(dev: &Dev, collection: &str) -> Result<BTreeMap<String, Value>> {
    let out = against(dev, &["export", "--collection", collection])?.ok()?;
    let point = |line: &str| -> Result<(String, Value)> {
        let point: Value = serde_json::from_str(line)?;
        Ok((point["id"].as_str().context("an id")?.to_owned(), json!([point["values"], point["metadata"]])))
    };
    out.lines().map(point).collect()
}

async fn count(dev: &Dev, collection: &str) -> Result<u64> {
    let client = dev.client_as(Protocol::Http2, &Claims::all())?;
    let answer = client.get(&format!("/api/v1/collections/{collection}")).send().await?;
    answer.expect(200)?["count"].as_u64().context("a count")
}

#[test]
fn every_format_carries_a_collection_over() -> Result<()> {
    let (dev, folder) = (dev()?, tempfile::tempdir()?);
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs_err::write(folder.path().join("origin.jsonl"), lines(1234))?;
    let said = against(dev, &["import", &path("origin.jsonl"), "--collection", "origin", "--create"])?.ok()?;
    assert!(said.starts_with("origin: 1,234 points"), "{said}");
    let origin = exported(dev, "origin")?;
    assert_eq!(origin.len(), 1234);
    for format in ["jsonl", "npy", "fvecs", "parquet"] {
        let file = path(&format!("copy.{format}"));
        against(dev, &["export", &file, "--collection", "origin"])?.ok()?;
        let copy = format!("copy-{format}");
        against(dev, &["import", &file, "--collection", &copy, "--create"])?.ok()?;
        assert!(exported(dev, &copy)? == origin, "{format} changed something");
        let refusal = against(dev, &["export", &file, "--collection", "origin"])?.refusal()?;
        assert!(refusal.contains("--force"), "{refusal}");
    }
    let left = fs_err::read_dir(folder.path())?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
    Ok(())
}

/// Starts an import of small, slow steps.
fn start(dev: &Dev, file: &Path, collection: &str) -> Result<Process> {
    let mut command = Command::new(binary("nearfield")?);
    command.arg("import").arg(file).args(["--collection", collection, "--create", "--batch", "5", "--parallel", "1"]);
    command.args(["--url", &dev.https()?]).arg("--data-dir").arg(dev.data());
    command.env("XDG_STATE_HOME", dev.data().join("state"));
    Process::spawn("nearfield import", command)
}

#[tokio::test]
async fn an_import_that_was_killed_goes_on_where_it_was() -> Result<()> {
    const POINTS: u64 = 20_000;
    let (dev, folder) = (dev()?, tempfile::tempdir()?);
    let file = folder.path().join("many.jsonl");
    fs_err::write(&file, lines(POINTS as usize))?;
    let first = start(dev, &file, "killed")?;
    let some = async || count(dev, "killed").await.ok().filter(|count| *count >= 100);
    eventually("a hundred points are stored", Duration::from_secs(60), some).await?;
    first.kill()?;
    let stored = count(dev, "killed").await?;
    assert!(stored < POINTS, "the import was faster than the test");

    let name = file.to_string_lossy().into_owned();
    let again = against(dev, &["import", &name, "--collection", "killed"])?;
    let resumed = again.error.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    let resumed = resumed.with_context(|| format!("it does not say that it resumes: {}", again.error))?;
    assert!(resumed > 0 && resumed <= stored, "resumed behind {resumed} of {stored}");
    again.ok()?;
    assert_eq!(count(dev, "killed").await?, POINTS);

    // Nothing is left to resume, and another run changes nothing.
    let third = against(dev, &["import", &name, "--collection", "killed"])?;
    ensure!(!third.error.contains("resuming"), "{}", third.error);
    third.ok()?;
    assert_eq!(count(dev, "killed").await?, POINTS);
    Ok(())
}

/// Refuses what `content` in a file called `name` says, in words that hold `says`.
fn check_refused(name: &str, content: &str, collection: &str, says: &[&str]) -> Result<()> {
    let (dev, folder) = (dev()?, tempfile::tempdir()?);
    let path = folder.path().join(name);
    fs_err::write(&path, content)?;
    let refusal = against(dev, &["import", &path.to_string_lossy(), "--collection", collection])?.refusal()?;
    for word in says {
        assert!(refusal.contains(word), "{word:?} is missing in {refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn wrong_inputs_are_told_where_they_are() -> Result<()> {
    let client = dev()?.client_as(Protocol::Http2, &Claims::all())?;
    client.put("/api/v1/collections/strict").json(&json!({"dimension": 2})).send().await?.expect(201)?;
    let good = "{\"id\":\"a\",\"values\":[1,2]}\n";
    let large =
        format!("{good}{good}{{\"id\":\"b\",\"values\":[1,2],\"metadata\":{{\"t\":\"{}\"}}}}", "x".repeat(70_000));
    check_refused("x.jsonl", good, "nowhere", &["nowhere", "--create"])?;
    check_refused("x.jsonl", "{\"id\":\"a\",\"values\":[1,2,3]}", "strict", &["3 numbers", "have 2"])?;
    check_refused("x.jsonl", &format!("{good}{{\"id\":7}}"), "strict", &["line 2"])?;
    check_refused("x.jsonl", &format!("{good}{{\"id\":\"b\",\"values\":[1]}}"), "strict", &["line 2", "1 numbers"])?;
    check_refused("x.jsonl", &format!("{good}{{\"id\":\"\",\"values\":[1,2]}}"), "strict", &["line 2", "400"])?;
    check_refused("x.jsonl", &large, "strict", &["line 3"])?;
    check_refused("x.txt", good, "strict", &[".parquet"])?;
    check_refused("x.npy", good, "strict", &["no .npy file"])?;
    assert_eq!(count(dev()?, "strict").await?, 0, "a refused batch changes nothing");

    let refusal = against(dev()?, &["export", "--collection", "nowhere"])?.refusal()?;
    assert!(refusal.contains("404"), "{refusal}");
    let refusal = against(dev()?, &["import", "/nowhere.npy"])?.refusal()?;
    assert!(refusal.contains("/nowhere.npy"), "{refusal}");
    Ok(())
}

#[test]
fn an_address_where_nobody_is_ends_with_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let refusal = crate::run::with_data(folder.path(), &["export", "--url", "ftp://x"])?.refusal()?;
    assert!(refusal.contains("ftp://x"), "{refusal}");
    Ok(())
}
