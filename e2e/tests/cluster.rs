//! Gateway, two searchds and Redis as separate processes, and what clients notice when one of them dies: nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_testkit::grpc::{self, Credentials};
use nearfield_testkit::{Claims, Client, Cluster, ClusterOptions, Protocol, eventually};
use serde_json::json;

use crate::space::{API, Space, ids, points};

const WAIT: Duration = Duration::from_secs(60);

fn space(cluster: &Cluster, tenant: &str) -> Result<Space> {
    let claims = Claims::of_tenant(tenant);
    Ok(Space::with(cluster.client_as(Protocol::Http2, &claims)?, cluster.token(&claims)?))
}

/// Runs `work` again and again in several tasks until stopped; how many rounds were run.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Load {
    fn start<F>(tasks: usize, work: impl Fn(usize) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send,
    {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = |_| {
            let (stop, rounds, work) = (stop.clone(), rounds.clone(), work.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    work(rounds.fetch_add(1, Ordering::Relaxed)).await?;
                }
                Ok(())
            })
        };
        let tasks = (0..tasks).map(task).collect();
        Self { stop, rounds, tasks }
    }

    /// Waits until so many more rounds have been run, or one has failed.
    async fn more(&self, rounds: usize) -> Result<()> {
        let target = self.rounds.load(Ordering::Relaxed) + rounds;
        let failed = || self.tasks.iter().any(tokio::task::JoinHandle::is_finished);
        let done = || async { (self.rounds.load(Ordering::Relaxed) >= target || failed()).then_some(()) };
        eventually("the load goes on", WAIT, done).await
    }

    async fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

fn search(client: &Client, i: usize) -> impl Future<Output = Result<nearfield_testkit::Answer>> + use<> {
    let body = json!({"collection": "c", "query": [i, 1, 2, 3], "k": 5});
    client.post(&format!("{API}/search")).json(&body).send()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_do_not_notice_the_death_of_a_searchd() -> Result<()> {
    let mut cluster = Cluster::start(&ClusterOptions::default())?;
    let space = space(&cluster, "cluster-read")?;
    space.fill("c", json!({"dimension": 4}), &points(111, 200, 4)).await?;
    // Both must have the data before one is taken away.
    for i in 0..2 {
        replicated(&cluster, i, "cluster-read", 200).await?;
    }
    let client = space.client.clone();
    let load = Load::start(6, move |i| {
        let client = client.clone();
        async move { search(&client, i).await?.expect(200).map(drop) }
    });
    load.more(100).await?;
    for victim in 0..2 {
        cluster.kill_searchd(victim)?;
        load.more(200).await?;
        cluster.restart_searchd(victim)?;
        replicated(&cluster, victim, "cluster-read", 200).await?;
        serving(&cluster, victim).await?;
        load.more(50).await?;
    }
    load.finish().await
}

/// Waits until searchd `i` itself shows `count` points.
async fn replicated(cluster: &Cluster, i: usize, tenant: &str, count: u64) -> Result<()> {
    use nearfield_proto::v1::DescribeCollectionRequest;
    use nearfield_proto::v1::collections_client::CollectionsClient;
    let channel = grpc::searchd(&cluster.searchd_url(i), Credentials::tenant(tenant)?).await?;
    let there = || async {
        let request = DescribeCollectionRequest { name: "c".to_owned(), ..Default::default() };
        let described = CollectionsClient::new(channel.clone()).describe(request).await.ok()?.into_inner();
        (described.count >= count).then_some(())
    };
    eventually(&format!("searchd-{i} has {count} points"), WAIT, there).await
}

/// Waits until the gateway has found searchd `i` healthy again, by its own metrics.
async fn serving(cluster: &Cluster, i: usize) -> Result<()> {
    let url = format!("{}/metrics", cluster.admin()?);
    let port = cluster.searchd_url(i).rsplit(':').next().unwrap_or_default().to_owned();
    let healthy = || async {
        let metrics = reqwest::get(&url).await.ok()?.text().await.ok()?;
        let healthy = |line: &str| line.contains("healthy") && line.contains(&port) && line.trim_end().ends_with(" 1");
        metrics.lines().any(healthy).then_some(())
    };
    eventually(&format!("searchd-{i} is healthy"), WAIT, healthy).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_the_death_of_their_searchd() -> Result<()> {
    let mut cluster = Cluster::start(&ClusterOptions::default())?;
    let space = space(&cluster, "cluster-write")?;
    space.create("c", json!({"dimension": 4})).await?;
    let acknowledged = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (client, log) = (space.client.clone(), acknowledged.clone());
    let load = Load::start(4, move |i| {
        let (client, log) = (client.clone(), log.clone());
        async move {
            let body = json!({"collection": "c", "vectors": [{"id": format!("w{i}"), "values": [i, 1, 2, 3]}]});
            // A write may fail while its searchd dies, but never be acknowledged and lost.
            if let Ok(answer) = client.post(&format!("{API}/insert")).json(&body).send().await
                && answer.status == 200
            {
                log.lock().expect("no task panics while it holds this").push(i);
            }
            Ok(())
        }
    });
    load.more(150).await?;
    for victim in 0..2 {
        cluster.kill_searchd(victim)?;
        load.more(100).await?;
        cluster.restart_searchd(victim)?;
        load.more(100).await?;
    }
    load.finish().await?;
    let acknowledged = acknowledged.lock().expect("the tasks have ended").clone();
    assert!(acknowledged.len() > 200, "only {} writes were acknowledged", acknowledged.len());
    // Each searchd has them all, its own and its peer's.
    for i in 0..2 {
        replicated(&cluster, i, "cluster-write", acknowledged.len() as u64).await?;
    }
    let body = json!({"collection": "c", "query": [1, 1, 2, 3], "k": 10_000, "exact": true});
    let found = space.client.post(&format!("{API}/search")).json(&body).send().await?.expect(200)?;
    let found: std::collections::HashSet<String> = ids(&found).into_iter().collect();
    let missing: Vec<String> = acknowledged.iter().map(|i| format!("w{i}")).filter(|id| !found.contains(id)).collect();
    assert!(missing.is_empty(), "{} of {} are gone: {missing:?}", missing.len(), acknowledged.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_one_searchd_is_honoured_by_the_other() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let space = space(&cluster, "cluster-session")?;
    space.create("c", json!({"dimension": 2})).await?;
    for i in 0..20 {
        space.insert("c", &[json!({"id": format!("p{i}"), "values": [1, i]})]).await?;
        let session = space.session().context("a session")?;
        for searchd in 0..2 {
            use nearfield_proto::v1::vector_search_client::VectorSearchClient;
            let channel = grpc::searchd(&cluster.searchd_url(searchd), Credentials::tenant("cluster-session")?).await?;
            let request = nearfield_proto::v1::SearchRequest {
                collection: "c".to_owned(),
                query: vec![1.0, i as f32],
                k: 100,
                session: session.clone(),
                ..Default::default()
            };
            let found = VectorSearchClient::new(channel).search(request).await?.into_inner();
            assert_eq!(found.total_results, i + 1, "searchd-{searchd} after write {i}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_for_want_of_redis() -> Result<()> {
    let mut cluster = Cluster::start(&ClusterOptions { searchds: 1, redis: true, ..ClusterOptions::default() })?;
    let space = space(&cluster, "cluster-redis")?;
    space.fill("c", json!({"dimension": 4}), &points(112, 100, 4)).await?;
    for i in 0..20 {
        search(&space.client, i).await?.expect(200)?;
    }
    let redis = cluster.redis.as_ref().context("Redis was asked for")?;
    let filled = || async { redis.keys().ok().filter(|keys| *keys > 0) };
    eventually("answers are kept in Redis", Duration::from_secs(10), filled).await?;

    let client = space.client.clone();
    let load = Load::start(6, move |i| {
        let client = client.clone();
        async move { search(&client, i % 500).await?.expect(200).map(drop) }
    });
    load.more(100).await?;
    cluster.redis.as_ref().context("Redis")?.kill()?;
    load.more(300).await?;
    space.insert("c", &[json!({"id": "meanwhile", "values": [9, 9, 9, 9]})]).await?;
    cluster.redis.as_mut().context("Redis")?.restart()?;
    load.more(100).await?;
    load.finish().await?;
    assert_eq!(space.found(json!({"collection": "c", "query": [9, 9, 9, 9], "k": 1})).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn without_any_searchd_the_answer_is_a_clear_503() -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions { searchds: 1, ..ClusterOptions::default() })?;
    let space = space(&cluster, "cluster-none")?;
    space.fill("c", json!({"dimension": 4}), &points(113, 10, 4)).await?;
    cluster.kill_searchd(0)?;
    let body = json!({"collection": "c", "query": [7, 7, 7, 7]});
    let refused = || async {
        let request = space.client.post(&format!("{API}/search")).json(&body).header("x-request-timeout", "5s");
        request.send().await.ok().filter(|answer| answer.status == 503)
    };
    let answer = eventually("a 503", WAIT, refused).await?;
    answer.problem(503)?;
    assert!(!answer.header("retry-after").is_empty());
    let unready = || async { space.client.get("/health/ready").send().await.ok().filter(|a| a.status == 503) };
    eventually("the gateway says that it is not ready", WAIT, unready).await?;
    Ok(())
}
