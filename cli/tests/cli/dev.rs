//! `nearfield dev` as a newcomer meets it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Dev, DevOptions, Protocol, binary};
use serde_json::json;

use crate::run::{against, nearfield};

const LEAVE: Duration = Duration::from_secs(30);

fn with_demo() -> DevOptions {
    DevOptions { demo: true, rate_limits: true, ..DevOptions::default() }
}

/// The line that begins with `curl` works in a shell as it stands.
fn curl(dev: &Dev) -> Result<String> {
    let log = dev.process().log();
    let line = log.iter().find(|line| line.starts_with("curl ")).context("a curl line")?;
    let output = Command::new("sh").args(["-c", &format!("{line} --silent --show-error --fail-with-body")]).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    anyhow::ensure!(output.status.success(), "{line}: {}{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

#[tokio::test]
async fn the_demo_answers_the_line_that_is_printed() -> Result<()> {
    let dev = Dev::start(&with_demo())?;
    let answer: serde_json::Value = serde_json::from_str(&curl(&dev)?)?;
    let results = answer["results"].as_array().context("results")?;
    assert_eq!(results.len(), 3, "{answer}");
    assert!(results.iter().all(|hit| hit["metadata"]["name"] == "ankle-boot"), "{answer}");

    let ready = dev.process().log().into_iter().find(|line| line.starts_with("ready ")).context("a ready line")?;
    for key in ["https", "admin", "grpc"] {
        assert!(ready.contains(&format!("\"{key}\":\"http")), "{ready}");
    }
    let grpc = dev.grpc()?;
    assert!(grpc.starts_with("http://127.0.0.1:") && !grpc.ends_with(":0"), "{grpc}");
    Ok(())
}

#[tokio::test]
async fn a_sandal_finds_sandals_over_http2_and_http3() -> Result<()> {
    let dev = Dev::start(&with_demo())?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/queries/sandal.json");
    let search = |more: &[&str]| against(&dev, &[&["search", file, "--include"], more].concat())?.ok();
    for (more, version) in [(&[][..], "HTTP/2 200"), (&["--http3"], "HTTP/3 200")] {
        let answer = search(more)?;
        assert!(answer.starts_with(version), "{answer}");
        assert_eq!(answer.matches("\"name\": \"sandal\"").count(), 5, "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_restart_keeps_everything_and_loads_the_demo_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let count = async |dev: &Dev, collection: &str| -> Result<u64> {
        let client = dev.client_as(Protocol::Http2, &Claims::all())?;
        let answer = client.get(&format!("/api/v1/collections/{collection}")).send().await?.expect(200)?;
        answer["count"].as_u64().context("a count")
    };
    let dev = Dev::start_over(folder.path(), &with_demo())?;
    let client = dev.client_as(Protocol::Http2, &Claims::all())?;
    client.put("/api/v1/collections/mine").json(&json!({"dimension": 2})).send().await?.expect(201)?;
    let point = json!({"collection": "mine", "vectors": [{"id": "a", "values": [1, 2]}]});
    client.post("/api/v1/insert").json(&point).send().await?.expect(200)?;
    let token = client.get("/api/v1/collections/mine").send().await?.expect(200)?;
    assert_eq!(token["count"], 1);
    let authority = fs_err::read(dev.ca())?;
    let said = dev.process().log().join("\n");
    assert!(said.contains("fashion-mnist: 5,000 points"), "{said}");
    dev.process().terminate();
    let exit = dev.process().wait_exit(LEAVE)?;
    assert!(exit.success(), "{exit}");

    let again = Dev::start_over(folder.path(), &with_demo())?;
    assert_eq!(fs_err::read(again.ca())?, authority, "whoever trusts the authority goes on doing so");
    assert_eq!((count(&again, "mine").await?, count(&again, "fashion-mnist").await?), (1, 5000));
    let said = again.process().log().join("\n");
    assert!(!said.contains("5,000 points"), "{said}");
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let data = folder.path().to_string_lossy().into_owned();
    for taken in ["--listen", "--admin", "--grpc"] {
        let mut arguments = vec!["dev", "--data-dir", &data];
        for option in ["--listen", "--admin", "--grpc"] {
            arguments.extend([option, if option == taken { &address } else { "127.0.0.1:0" }]);
        }
        let refusal = nearfield(arguments)?.refusal()?;
        assert!(refusal.contains(&address) && refusal.contains("in use"), "{taken}: {refusal}");
    }
    Ok(())
}

#[test]
fn a_misspelt_variable_is_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(binary("nearfield")?);
    command.args(["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--data-dir"]);
    let output = command.arg(folder.path()).env("NEARFIELD_LOG__LEVLE", "info").output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("NEARFIELD_LOG__LEVLE"), "{error}");
    Ok(())
}
