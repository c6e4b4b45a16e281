//! Answers on the gateway's disk: they outlive the process however it ends, and their purges do too.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::{Answer, Claims, Cluster, ClusterOptions, Protocol, eventually};
use serde_json::json;

use crate::small_disk::SmallDisk;
use crate::space::{API, Space, points};

const WAIT: Duration = Duration::from_secs(60);
const POINTS: usize = 100;

/// A gateway that has no memory for answers, so that all come from its disk.
fn cluster(directory: &Path) -> Result<Cluster> {
    let path: &'static str = directory.join("cache").to_str().context("a path of text")?.to_owned().leak();
    Cluster::start(&ClusterOptions {
        searchds: 1,
        gateway: vec![
            ("NEARFIELD_CACHE__MEMORY_BYTES", "1"),
            ("NEARFIELD_CACHE__DISK__PATH", path),
            ("NEARFIELD_CACHE__DISK__BYTES", "33554432"),
            // What is slow here is the machine.
            ("NEARFIELD_CACHE__DISK__PATIENCE", "10s"),
        ],
        ..ClusterOptions::default()
    })
}

fn space(cluster: &Cluster, tenant: &str) -> Result<Space> {
    let claims = Claims::of_tenant(tenant);
    Ok(Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?))
}

/// Waits until a line of the gateway's metrics satisfies `holds`, by its number.
async fn metric(cluster: &Cluster, name: &str, holds: impl Fn(f64) -> bool) -> Result<()> {
    let url = format!("{}/metrics", cluster.admin()?);
    let shown = || async {
        let metrics = reqwest::get(&url).await.ok()?.text().await.ok()?;
        let values = metrics.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(shown, _)| *shown == name);
        values.filter_map(|(_, value)| value.parse().ok()).any(&holds).then_some(())
    };
    eventually(name, WAIT, shown).await
}

/// kill -9; back when the gateway has read what is on its disk.
async fn restart(cluster: &mut Cluster, tenant: &str) -> Result<Space> {
    cluster.restart_gateway()?;
    metric(cluster, "gateway_cache_disk_up", |up| up == 1.0).await?;
    space(cluster, tenant)
}

fn is_from_disk(answer: &Answer) -> bool {
    let status = answer.header("cache-status");
    status.contains("; hit") && status.contains("detail=disk")
}

/// Waits until answers are kept for as long as they may be, which they are not right after a write.
async fn settled(space: &Space) -> Result<()> {
    let lasts = || async {
        let answer = space.client.get(&path(0)).send().await.ok()?;
        answer.header("cache-control").contains("max-age=300").then_some(())
    };
    eventually("the collection has settled", WAIT, lasts).await
}

fn path(i: usize) -> String {
    format!("{API}/embed/p{i:04}?collection=c")
}

#[tokio::test]
async fn answers_outlive_kill_nine() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut cluster = cluster(directory.path())?;
    let before = space(&cluster, "disk")?;
    before.fill("c", json!({"dimension": 4}), &points(5, POINTS, 4)).await?;
    settled(&before).await?;
    let mut bodies = Vec::new();
    for i in 0..POINTS {
        bodies.push(before.client.get(&path(i)).send().await?.expect(200)?);
    }
    metric(&cluster, "gateway_cache_disk_entries", |entries| entries == POINTS as f64).await?;
    assert!(is_from_disk(&before.client.get(&path(0)).send().await?));

    let after = restart(&mut cluster, "disk").await?;
    for (i, body) in bodies.iter().enumerate() {
        let answer = after.client.get(&path(i)).send().await?;
        assert!(is_from_disk(&answer), "{i}: {}", answer.header("cache-status"));
        assert_eq!(answer.expect(200)?, *body);
    }
    // Nobody else's.
    let other = space(&cluster, "disk-other")?.client.get(&path(0)).send().await?;
    assert!(!is_from_disk(&other));
    other.problem(404)?;
    Ok(())
}

#[tokio::test]
async fn what_was_purged_does_not_come_back_after_kill_nine() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut cluster = cluster(directory.path())?;
    let mut space = space(&cluster, "disk")?;
    space.fill("c", json!({"dimension": 4}), &points(6, POINTS, 4)).await?;
    for round in 0..4 {
        settled(&space).await?;
        for i in 0..POINTS {
            space.client.get(&path(i)).send().await?.expect(200)?;
        }
        metric(&cluster, "gateway_cache_disk_entries", |entries| entries == POINTS as f64).await?;
        // By id, by a write, and all of it: killed as soon as it is said to be done.
        let purge = match round {
            0 => Some(json!({"collection": "c", "ids": ["p0007"]})),
            1 => {
                space.write("update", json!({"collection": "c", "id": "p0007", "metadata": {"round": round}})).await?;
                None
            }
            2 => Some(json!({"collection": "c", "spread_seconds": 300})),
            _ => Some(json!({"all": true})),
        };
        if let Some(purge) = purge {
            space.client.post(&format!("{API}/cache/purge")).json(&purge).send().await?.expect(200)?;
        }
        space = restart(&mut cluster, "disk").await?;
        let answer = space.client.get(&path(7)).send().await?;
        assert!(!is_from_disk(&answer), "round {round}: {}", answer.header("cache-status"));
        assert_eq!(answer.expect(200)?["metadata"]["round"], if round == 0 { json!(null) } else { json!(1) });
        if round == 0 {
            assert!(is_from_disk(&space.client.get(&path(8)).send().await?), "it was of another point");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_no_clients_trouble() -> Result<()> {
    const DIMENSION: usize = 512;
    let Some(disk) = SmallDisk::mount(8)? else {
        println!("without a mount there is no disk to fill");
        return Ok(());
    };
    let cluster = cluster(disk.path())?;
    let space = space(&cluster, "disk")?;
    space.fill("c", json!({"dimension": DIMENSION}), &points(7, 1_500, DIMENSION)).await?;
    metric(&cluster, "gateway_cache_disk_up", |up| up == 1.0).await?;
    settled(&space).await?;
    for i in 0..1_500 {
        space.client.get(&path(i)).send().await?.expect(200)?;
    }
    metric(&cluster, "gateway_cache_disk_up", |up| up == 0.0).await?;
    metric(&cluster, "gateway_cache_disk_failures_total", |failures| failures > 0.0).await?;
    // What was stored before is still given.
    assert!(is_from_disk(&space.client.get(&path(0)).send().await?));
    disk.grow(64)?;
    let again = || async {
        for i in 1_000..1_500 {
            let answer = space.client.get(&path(i)).send().await.ok()?;
            if is_from_disk(&answer) && i == 1_499 {
                return Some(());
            }
        }
        None
    };
    eventually("answers are stored again", WAIT, again).await?;
    metric(&cluster, "gateway_cache_disk_up", |up| up == 1.0).await
}
