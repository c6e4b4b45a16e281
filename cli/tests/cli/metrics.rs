//! `docs/metrics.md` names what the programs show, and nothing else.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{Claims, Process, Protocol, binary};

use crate::run::dev;

const START: Duration = Duration::from_secs(60);

/// The names in the first column of the page's tables.
fn documented() -> BTreeSet<String> {
    let page = include_str!("../../../docs/metrics.md");
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(name, _)| name.to_owned()).collect()
}

/// The names in an OpenMetrics text, as they are queried.
async fn shown(admin: &str) -> Result<BTreeSet<String>> {
    let text = reqwest::get(format!("{admin}/metrics")).await?.text().await?;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let name = |(name, kind): (&str, &str)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
    Ok(types.map(name).collect())
}

#[tokio::test]
async fn the_page_and_the_programs_agree() -> Result<()> {
    let dev = dev()?;
    let client = dev.client_as(Protocol::Http2, &Claims::all())?;
    client.get("/api/v1/collections").send().await?.expect(200)?;
    client.get("/api/v1/collections").bearer("none").send().await?.expect(401)?;

    let folder = tempfile::tempdir()?;
    let mut searchd = Command::new(binary("searchd")?);
    searchd.env("NEARFIELD_STORAGE__DATA_DIR", folder.path());
    searchd.envs([("NEARFIELD_SERVER__LISTEN", "127.0.0.1:0"), ("NEARFIELD_SERVER__ADMIN", "127.0.0.1:0")]);
    let searchd = Process::start("searchd", searchd, START)?;

    let documented = documented();
    let gateway = shown(&dev.admin()?).await?;
    let shown = gateway.union(&shown(&searchd.address("admin")?).await?).cloned().collect::<BTreeSet<_>>();
    let missing: Vec<_> = shown.difference(&documented).collect();
    assert!(missing.is_empty(), "the page lacks {missing:?}");
    assert!(gateway.contains("gateway_auth_refused_total"), "{gateway:?}");

    // What has not happened is not shown; such a name is at least in the program's text.
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let sources =
        Command::new("git").args(["grep", "-hoE", "\"[a-z0-9_]+\"", "--", "*/src/*.rs"]).current_dir(root).output()?;
    let sources = String::from_utf8(sources.stdout).context("sources are UTF-8")?;
    for name in documented.difference(&shown) {
        let whole = name.trim_end_matches("_total");
        let names = [whole, whole.trim_start_matches("gateway_")];
        assert!(names.iter().any(|name| sources.contains(&format!("\"{name}\""))), "no program knows {name}");
    }
    Ok(())
}
