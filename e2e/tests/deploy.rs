//! What stands in `deploy/`: settings that the programs accept, and a compose file that names only what exists.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use nearfield_testkit::{Authority, TestCa, binary};
use serde_json::Value;

fn deploy() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy"))
}

/// A copy of a config file, the paths of the images replaced by those of a temporary directory.
fn adapted(name: &str, directory: &Path) -> Result<PathBuf> {
    let credentials = directory.join("credentials");
    for folder in ["tls", "auth"] {
        fs_err::create_dir_all(credentials.join(folder))?;
    }
    TestCa::create(&credentials.join("tls"))?;
    Authority::create(&credentials.join("auth"))?;
    let text = fs_err::read_to_string(deploy().join(name))?;
    let text = text.replace("/etc/nearfield/credentials", &credentials.display().to_string());
    let text = text.replace("/etc/nearfield", &deploy().display().to_string());
    let text = text.replace("/var/lib/nearfield", &directory.display().to_string());
    let file = directory.join(name);
    fs_err::write(&file, text)?;
    Ok(file)
}

fn check(program: &str, config: &Path, environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(binary(program)?);
    command.arg("--config").arg(config).arg("--check").envs(environment.iter().copied());
    Ok(command.output()?)
}

#[test]
fn the_programs_accept_their_settings() -> Result<()> {
    for program in ["gateway", "searchd"] {
        let directory = tempfile::tempdir()?;
        let config = adapted(&format!("{program}.toml"), directory.path())?;
        let output = check(program, &config, &[])?;
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("ready"), "{program} --check serves nothing");
    }
    Ok(())
}

#[test]
fn a_key_that_is_misspelt_is_an_error_that_names_it() -> Result<()> {
    for program in ["gateway", "searchd"] {
        let directory = tempfile::tempdir()?;
        let config = adapted(&format!("{program}.toml"), directory.path())?;
        let text = fs_err::read_to_string(&config)?.replace("region =", "regoin =");
        fs_err::write(&config, text)?;
        let output = check(program, &config, &[])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("regoin"), "{program}: {said}");
        let absent = check(program, &directory.path().join("none.toml"), &[])?;
        assert!(!absent.status.success(), "{program} without its file");
    }
    Ok(())
}

#[test]
fn the_environment_overrides_a_file() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = adapted("searchd.toml", directory.path())?;
    let good =
        [("NEARFIELD_SERVER__INSTANCE", "searchd-9"), ("NEARFIELD_REPLICATION__PEERS", r#"["http://other:50051"]"#)];
    let output = check("searchd", &config, &good)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = check("searchd", &config, &[("NEARFIELD_SERVER__LISTEN", "nowhere")])?;
    assert!(!output.status.success());
    Ok(())
}

fn compose() -> Result<Value> {
    let text = fs_err::read_to_string(deploy().join("compose.yaml"))?;
    let mut value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text)?;
    value.apply_merge()?;
    Ok(serde_json::to_value(value)?)
}

#[test]
fn the_compose_file_names_what_exists() -> Result<()> {
    let compose = compose()?;
    let services = compose["services"].as_object().context("services")?;
    let names: Vec<&str> = services.keys().map(String::as_str).collect();
    assert_eq!(names, ["searchd-1", "searchd-2", "redis", "gateway"]);
    let containerfile = fs_err::read_to_string(deploy().join("Containerfile"))?;
    for (name, service) in services {
        if let Some(target) = service["build"]["target"].as_str() {
            assert!(containerfile.contains(&format!(" AS {target}\n")), "{name}: no stage {target}");
            let file = deploy()
                .join(service["build"]["context"].as_str().unwrap_or("."))
                .join(service["build"]["dockerfile"].as_str().unwrap_or_default());
            assert!(file.is_file(), "{name}: {}", file.display());
            assert_eq!(service["read_only"], true, "{name}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().and_then(|v| v.split(':').next()).unwrap_or_default();
            let known = source.starts_with('.') || compose["volumes"].get(source).is_some();
            assert!(known, "{name}: the volume {source} is not declared");
        }
        for other in service["depends_on"].as_array().into_iter().flatten() {
            assert!(other.as_str().is_some_and(|o| services.contains_key(o)), "{name} depends on {other}");
        }
    }
    // The gateway's upstreams and cache are services of this file.
    let gateway = fs_err::read_to_string(deploy().join("gateway.toml"))?;
    for (url, service) in [
        ("http://searchd-1:50051", "searchd-1"),
        ("http://searchd-2:50051", "searchd-2"),
        ("redis://redis:6379", "redis"),
    ] {
        assert!(gateway.contains(url) && services.contains_key(service), "{url}");
    }
    Ok(())
}

#[test]
fn every_searchd_of_the_compose_file_follows_the_others() -> Result<()> {
    let compose = compose()?;
    for (name, other) in [("searchd-1", "searchd-2"), ("searchd-2", "searchd-1")] {
        let environment = &compose["services"][name]["environment"];
        assert_eq!(environment["NEARFIELD_SERVER__INSTANCE"], name);
        let peers: Vec<String> =
            serde_json::from_str(environment["NEARFIELD_REPLICATION__PEERS"].as_str().context("peers")?)?;
        assert_eq!(peers, [format!("http://{other}:50051")]);
    }
    Ok(())
}
