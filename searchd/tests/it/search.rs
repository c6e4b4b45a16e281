//! Searches: by vector and by id, filtered, in batches and streams, and what is refused.

use nearfield_proto::load::{LOAD_METADATA, LoadReport, QUEUE_DELAY};
use nearfield_proto::v1;
use tonic::{Code, Request};

use crate::running::{Running, fields, ids, point};

async fn with_points(directory: &std::path::Path) -> Running {
    let mut running = Running::start(directory).await;
    running.create("default", 2, "euclidean").await;
    let points = (0..50).map(|i| point(&format!("p{i:02}"), &[i as f32, 0.0], &format!("{{\"n\":{i}}}"))).collect();
    running.insert("", points).await;
    running
}

fn near(x: f32, k: i32) -> v1::SearchRequest {
    v1::SearchRequest { query: vec![x, 0.0], k, ..Default::default() }
}

#[tokio::test]
async fn the_nearest_come_first_and_ties_go_by_id() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let found = running.search(near(7.5, 4)).await.unwrap();
    assert_eq!(ids(&found), ["p07", "p08", "p06", "p09"]);
    let scores: Vec<_> = found.results.iter().map(|result| result.score).collect();
    assert_eq!((scores, found.total_results), (vec![0.5, 0.5, 1.5, 1.5], 4));
    assert_eq!(&found.results[0].metadata[..], br#"{"n":7}"#);
    assert!(found.results[0].values.is_empty());
    let all = v1::SearchRequest { include: vec!["values".into()], ..near(0.0, 10_000) };
    let found = running.search(all).await.unwrap();
    assert_eq!((found.results.len(), &found.results[3].values[..]), (50, &[3.0, 0.0][..]));
    assert!(found.results[0].metadata.is_empty());
    assert_eq!(running.search(near(0.0, 0)).await.unwrap().results.len(), 10);
    running.stop().await;
}

#[tokio::test]
async fn every_answer_tells_the_load() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let answer = running.points.search(near(1.0, 1)).await.unwrap();
    let told = answer.metadata().get_bin(LOAD_METADATA).unwrap();
    let report = LoadReport::from_header(&told.as_encoded_bytes().try_into().unwrap()).unwrap();
    assert!((0.0..=1.0).contains(&report.application_utilization), "{report:?}");
    assert!(report.named_metrics.contains_key(QUEUE_DELAY), "{report:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_point_is_left_out_of_its_own_neighbours() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let by_id = |id: &str| v1::SearchRequest { query_vector_id: id.into(), k: 2, ..Default::default() };
    assert_eq!(ids(&running.search(by_id("p10")).await.unwrap()), ["p09", "p11"]);
    assert_eq!(running.search(by_id("p99")).await.unwrap_err().code(), Code::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn filters_give_as_many_hits_as_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let filtered = |filter: &str, k| v1::SearchRequest { filter: filter.to_owned().into(), ..near(0.0, k) };
    let found = running.search(filtered(r#"{"n":{"$gte":40}}"#, 5)).await.unwrap();
    assert_eq!(ids(&found), ["p40", "p41", "p42", "p43", "p44"]);
    assert_eq!(running.search(filtered(r#"{"n":{"$gte":48}}"#, 5)).await.unwrap().results.len(), 2);
    assert_eq!(running.search(filtered(r#"{"n":"7"}"#, 5)).await.unwrap().results.len(), 0);
    assert_eq!(running.search(filtered("{}", 5)).await.unwrap().results.len(), 5);
    let error = running.search(filtered(r#"{"n":{"$foo":1}}"#, 5)).await.unwrap_err();
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["/filter/n/$foo".into()]));
    running.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let wrong = [
        (near(0.0, -1), "/k"),
        (near(0.0, 10_001), "/k"),
        (v1::SearchRequest { query: vec![], ..near(0.0, 1) }, "/query"),
        (v1::SearchRequest { query: vec![1.0], ..near(0.0, 1) }, "/query"),
        (v1::SearchRequest { query: vec![1.0, f32::INFINITY], ..near(0.0, 1) }, "/query/1"),
        (v1::SearchRequest { query_vector_id: "p01".into(), ..near(0.0, 1) }, "/query_vector_id"),
        (v1::SearchRequest { metric: "cosine".into(), ..near(0.0, 1) }, "/metric"),
        (v1::SearchRequest { metric: "hamming".into(), ..near(0.0, 1) }, "/metric"),
        (v1::SearchRequest { include: vec!["all".into()], ..near(0.0, 1) }, "/include/0"),
        (v1::SearchRequest { ef_search: 10_001, ..near(0.0, 1) }, "/ef_search"),
        (v1::SearchRequest { session: "nonsense".into(), ..near(0.0, 1) }, "/session"),
        (v1::SearchRequest { collection: "UPPER".into(), ..near(0.0, 1) }, "/collection"),
    ];
    for (request, field) in wrong {
        let error = running.search(request).await.unwrap_err();
        assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
    let nowhere = v1::SearchRequest { collection: "nowhere".into(), ..near(0.0, 1) };
    assert_eq!(running.search(nowhere).await.unwrap_err().code(), Code::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn a_session_sees_its_write_and_an_unknown_one_waits_until_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let session = running.insert("", vec![point("new", &[100.0, 0.0], "")]).await.session;
    let found = running.search(v1::SearchRequest { session: session.clone(), ..near(100.0, 1) }).await.unwrap();
    assert_eq!(ids(&found), ["new"]);
    let elsewhere = nearfield_searchd::engine::vector_clock::VectorClock::from_iter([(1, 1)]).to_token();
    let mut request = Request::new(v1::SearchRequest { session: elsewhere, ..near(0.0, 1) });
    request.set_timeout(std::time::Duration::from_millis(100));
    // The client keeps the deadline, too, and may be the first to say so.
    let code = running.points.search(request).await.unwrap_err().code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_batch_answers_each_search_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let searches = vec![near(1.0, 1), near(1.0, -1), near(2.0, 1)];
    let responses = running.points.batch_search(v1::BatchSearchRequest { searches }).await.unwrap();
    let outcomes: Vec<_> = responses.into_inner().responses.into_iter().map(|item| item.outcome.unwrap()).collect();
    let v1::batch_search_item::Outcome::Response(first) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(ids(first), ["p01"]);
    let v1::batch_search_item::Outcome::Problem(problem) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!((problem.code, problem.violations[0].field.as_str()), (3, "/k"));
    let request = v1::BatchSearchRequest { searches: vec![near(1.0, 1); 101] };
    assert_eq!(running.points.batch_search(request).await.unwrap_err().code(), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test]
async fn a_batch_over_collections_of_any_mix_answers_as_single_searches_do() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    running.create("other", 2, "dot").await;
    running.insert("other", vec![point("o1", &[1.0, 1.0], "{}"), point("o2", &[2.0, 1.0], "{\"n\":2}")]).await;
    let searches: Vec<_> = (0..100)
        .map(|i| {
            let collection = ["", "other", "nowhere"][i % 7 % 3].to_owned();
            let filter = ["", r#"{"n":{"$gte":20}}"#, r#"{"n":{"$lt":3}}"#, r#"{"n":{"$foo":1}}"#][i % 4].to_owned();
            let include = if i % 5 == 0 { vec!["values".to_owned()] } else { Vec::new() };
            v1::SearchRequest {
                collection,
                filter: filter.into(),
                include,
                exact: i % 2 == 0,
                ..near(i as f32 / 2.0, 7)
            }
        })
        .collect();
    let batch = v1::BatchSearchRequest { searches: searches.clone() };
    let items = running.points.batch_search(batch).await.unwrap().into_inner().responses;
    assert_eq!(items.len(), searches.len());
    for (search, item) in searches.into_iter().zip(items) {
        match (running.search(search).await, item.outcome.unwrap()) {
            (Ok(alone), v1::batch_search_item::Outcome::Response(found)) => assert_eq!(found, alone),
            (Err(alone), v1::batch_search_item::Outcome::Problem(problem)) => {
                assert_eq!((problem.code, problem.message.as_str()), (alone.code() as i32, alone.message()));
            }
            other => panic!("{other:?}"),
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_stream_gives_the_hits_of_the_unary_answer_and_says_when_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let unary = running.search(near(7.5, 5)).await.unwrap();
    let mut stream = running.points.stream_search(near(7.5, 5)).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(result) = stream.message().await.unwrap() {
        streamed.push(result);
    }
    let last = streamed.last_mut().unwrap();
    assert_eq!((last.last, last.total_results), (true, 5));
    (last.last, last.total_results) = (false, 0);
    assert_eq!(streamed, unary.results);
    running.stop().await;
}

#[tokio::test]
async fn one_stream_carries_many_searches() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let requests = (0..40).map(|i| {
        let k = if i == 13 { -1 } else { 3 };
        v1::SearchRequest { request_id: format!("r{i}"), ..near(i as f32, k) }
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut stream = running.points.bidirectional_search(requests).await.unwrap().into_inner();
    let (mut done, mut hits) = (std::collections::BTreeSet::new(), 0);
    while let Some(result) = stream.message().await.unwrap() {
        hits += usize::from(!result.vector_id.is_empty());
        if result.last {
            assert_eq!(result.problem.is_some(), result.request_id == "r13");
            assert!(done.insert(result.request_id));
        }
    }
    assert_eq!((done.len(), hits), (40, 39 * 3));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ties_and_filters_hold_while_writes_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = with_points(directory.path()).await;
    let same =
        |from: u32, to: u32| (from..to).map(|i| point(&format!("same-{i:05}"), &[-5.0, 0.0], "{\"n\":-5}")).collect();
    running.insert("", same(0, 500)).await;
    let mut writer = running.points.clone();
    let writing = tokio::spawn(async move {
        for i in 0..60 {
            let vectors = same(500 + i * 10, 510 + i * 10);
            writer.insert(v1::InsertRequest { vectors, ..Default::default() }).await.unwrap();
        }
    });
    let expected: Vec<_> = (0..20).map(|i| format!("same-{i:05}")).collect();
    let mut searches = 0;
    while !writing.is_finished() || searches < 20 {
        let filter = if searches % 2 == 0 { String::new() } else { r#"{"n":-5}"#.to_owned() };
        let request = v1::SearchRequest { filter: filter.into(), ..near(-5.0, 20) };
        assert_eq!(ids(&running.search(request).await.unwrap()), expected);
        searches += 1;
    }
    writing.await.unwrap();
    running.stop().await;
}
