//! `docs/config-searchd.md` shows every setting of searchd with its default. (The gateway holds its own page to its
//! program.)

use anyhow::{Context, Result};
use nearfield_searchd::Config;
use nearfield_telemetry::settings;

#[test]
fn searchds_page_shows_every_default() -> Result<()> {
    let page = include_str!("../../../docs/config-searchd.md");
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).context("an example")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("searchd.toml");
    fs_err::write(&file, example)?;
    let shown: Config = settings::load(Some(&file))?;
    assert_eq!(shown, Config::default());
    for line in format!("{shown:#?}").lines() {
        if let Some((field, _)) = line.trim().split_once(": ") {
            let listed = page.contains(&format!("{field} = ")) || page.contains(&format!("[{field}]"));
            assert!(listed, "{field} is not documented");
        }
    }
    Ok(())
}
