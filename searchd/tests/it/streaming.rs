//! Streamed searches of many hits: the unary answer, block by block, as fast as it is read.

use nearfield_proto::v1;
use nearfield_proto::v1::vector_search_client::VectorSearchClient;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tonic::transport::Channel;

use crate::process::{Served, command, metrics};
use crate::running::point;

const DIMENSION: usize = 256;
const POINTS: usize = 10_000;
/// What fits into windows and buffers of 64 KiB to 1 MiB on the way, with room to spare.
const AHEAD: usize = 4_000;

/// Hits that were looked up for streams.
async fn looked_up(served: &Served) -> usize {
    let text = metrics(served).await.unwrap();
    let line = text.lines().find(|line| line.starts_with("nearfield_searchd_streamed_hits_total ")).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

async fn filled(directory: &std::path::Path) -> Served {
    let mut command = command(directory);
    command.env("NEARFIELD_STORAGE__CHECKPOINT_BYTES", "100000000").env("NEARFIELD_ENGINE__SEAL_ROWS", "100000");
    let served = Served::start(command).await.unwrap();
    served.create("c", DIMENSION as u32).await;
    let mut random = SmallRng::seed_from_u64(3);
    for block in 0..POINTS / 1_000 {
        let vectors = (0..1_000).map(|i| {
            let values: Vec<f32> = (0..DIMENSION).map(|_| random.random_range(-1.0..1.0)).collect();
            point(&format!("p{:05}", block * 1_000 + i), &values, &format!("{{\"n\":{i}}}"))
        });
        let request = v1::InsertRequest { collection: "c".into(), vectors: vectors.collect() };
        served.points().insert(request).await.unwrap();
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_the_unary_answer_and_waits_for_its_reader() {
    let directory = tempfile::tempdir().unwrap();
    let served = filled(directory.path()).await;
    let request = v1::SearchRequest {
        collection: "c".into(),
        query: vec![0.1; DIMENSION],
        k: POINTS as i32,
        include: vec!["metadata".into(), "values".into()],
        ..Default::default()
    };
    let narrow = Channel::from_shared(served.process.address("grpc").unwrap()).unwrap();
    let narrow = narrow.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut slow = VectorSearchClient::new(narrow.connect().await.unwrap());

    // One that leaves: what it did not read is never looked up.
    let mut left = slow.stream_search(request.clone()).await.unwrap().into_inner();
    left.message().await.unwrap().unwrap();
    drop(left);
    let mut stream = slow.stream_search(request.clone()).await.unwrap().into_inner();
    let mut streamed = vec![stream.message().await.unwrap().unwrap()];
    for i in 0..50 {
        let query = vec![i as f32; DIMENSION];
        let other = v1::SearchRequest { collection: "c".into(), query, k: 3, ..Default::default() };
        assert_eq!(served.points().search(other).await.unwrap().into_inner().results.len(), 3);
    }
    let held_back = looked_up(&served).await;
    assert!((2 * 128..AHEAD).contains(&held_back), "{held_back} hits were looked up for two readers of one each");
    while let Some(message) = stream.message().await.unwrap() {
        streamed.push(message);
    }
    let all = looked_up(&served).await;
    assert!((POINTS..POINTS + AHEAD).contains(&all), "{all}");
    let last = streamed.last_mut().unwrap();
    assert_eq!((last.last, last.total_results), (true, POINTS as u64));
    (last.last, last.total_results) = (false, 0);
    let unary = served.points().search(request.clone()).await.unwrap().into_inner();
    assert!(streamed == unary.results, "the stream is the unary answer");

    // From here on it is kept, and streamed from there.
    let requests = ["a", "b"].map(|id| v1::SearchRequest { request_id: id.into(), ..request.clone() });
    let mut both = served.points().bidirectional_search(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut found = [Vec::new(), Vec::new()];
    while let Some(mut message) = both.message().await.unwrap() {
        let of = usize::from(std::mem::take(&mut message.request_id) == "b");
        assert_eq!(message.last, found[of].len() + 1 == POINTS);
        (message.last, message.total_results) = (false, 0);
        found[of].push(message);
    }
    assert!(found.iter().all(|found| *found == unary.results));
    assert_eq!(looked_up(&served).await, all);
}
