//! A calibration follows what users ask.

use super::*;
use crate::index::segment::Segment;

/// All rows in one segment.
fn sealed(directory: &Path, (dimension, metric, quantization): (u32, &str, &str), rows: &[Vec<f32>]) -> Index {
    let index = index(dimension, metric, quantization);
    rows.iter().enumerate().for_each(|(slot, values)| index.put(slot as Slot, values));
    seal(&index, directory);
    index
}

/// Asks as users do.
fn ask(index: &Index, queries: &[Vec<f32>]) {
    for query in queries {
        let scorer = index.scorer(query);
        let effort = index.settings.effort;
        let wanted = [Wanted { scorer: &scorer, k: 10, effort, exact: false, admitted: None, except: None }];
        let answers = index.search_all(&wanted, &|a, b| a.cmp(&b), &Stop::default()).unwrap();
        assert_eq!(answers.len(), 1);
    }
}

/// Candidates of a search by default.
fn usual(index: &Index) -> usize {
    index.candidates(Effort::Recall(Recall::USUAL))
}

/// In no direction that rows have: what is nearest is hardly nearer than anything else.
fn elsewhere(seed: u64) -> Vec<Vec<f32>> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..200).map(|_| (0..64).map(|_| random.random_range(-1.0f32..1.0)).collect()).collect()
}

#[test]
fn a_graph_learns_from_what_is_asked_how_many_candidates_a_recall_takes() {
    let directory = tempfile::tempdir().unwrap();
    let rows = clustered(4_096, 64, 11);
    let index = sealed(directory.path(), (64, "cosine", "int8"), &rows);
    let stop = Stop::default();
    assert!(!index.learn(&stop).unwrap(), "nobody has asked");
    let unasked = usual(&index);

    // Who asks one thing again and again says little.
    ask(&index, &vec![rows[0].clone(); 20]);
    assert!(!index.learn(&stop).unwrap() && usual(&index) == unasked);

    let near: Vec<Vec<f32>> =
        clustered(200, 64, 11).iter().map(|row| row.iter().map(|value| value + 0.1).collect()).collect();
    ask(&index, &near);
    assert!(index.learn(&stop).unwrap());
    let easy = usual(&index);
    assert!(easy < unasked, "{easy} candidates for easy questions, {unasked} before any was asked");
    assert!(!index.learn(&stop).unwrap(), "it is not tried again before others were asked");

    // Others ask now, and other things.
    (100..140).for_each(|seed| ask(&index, &elsewhere(seed)));
    assert!(index.learn(&stop).unwrap());
    let hard = usual(&index);
    assert!(hard > easy, "{hard} candidates for hard questions, {easy} for easy ones");
    let found = recall(&index, &elsewhere(13), ASK);
    assert!(found >= 0.95, "recall {found} of questions like those that were asked");

    // A graph that is built now knows from the start.
    index.remove(0);
    let sources = index.claim(Some).unwrap();
    index.seal(&sources, directory.path(), &builder()).unwrap();
    assert!(!index.learn(&stop).unwrap());
    assert!(usual(&index) > easy);
}

#[test]
fn a_trial_ends_when_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let rows = clustered(2_048, 16, 3);
    let index = sealed(directory.path(), (16, "euclidean", "pq"), &rows);
    ask(&index, &rows[..200]);
    let stop = Stop::default();
    stop.cancelled.cancel();
    assert!(matches!(index.learn(&stop), Err(graph::Error::Stopped(_))));
    assert!(index.learn(&Stop::default()).unwrap(), "it is tried later");
}

#[test]
fn codes_that_took_more_bits_before_anybody_asked_are_written_anew_once() {
    let directory = tempfile::tempdir().unwrap();
    let rows = clustered(4_096, 128, 21);
    // Eight bits, as hard questions would have made of it.
    let mut index = sealed(directory.path(), (128, "cosine", "int8"), &rows);
    index.settings.quantization = Quantization::Pq;
    assert!(index.sources_at_rest(Duration::ZERO).is_none(), "nobody has asked: what there is stays");
    let bytes = index.segments()[0].memory_bytes();

    ask(&index, &rows[..200]);
    assert!(index.learn(&Stop::default()).unwrap());
    assert!(index.sources(1).is_none(), "there is time for it once nobody writes");
    let sources = index.sources_at_rest(Duration::ZERO).expect("a segment that may take fewer bits");
    index.seal(&sources, directory.path(), &builder()).unwrap();
    let narrowed = index.segments()[0].memory_bytes();
    assert!(narrowed < bytes * 3 / 4, "{narrowed} bytes, {bytes} before");
    assert!(index.sources_at_rest(Duration::ZERO).is_none());

    // Once, whatever came of it.
    index.settings.quantization = Quantization::Int8;
    let sources = index.claim(Some).unwrap();
    index.seal(&sources, directory.path(), &builder()).unwrap();
    index.settings.quantization = Quantization::Pq;
    let (settings, sealed) = (&index.settings, index.segments()[0].sealed);
    let reopened = Segment::open(directory.path(), sealed, settings, &builder()).unwrap();
    let proposer = reopened.proposer().unwrap();
    proposer.try_with(&index.recent.taken(), settings, &reopened.vectors, &Stop::default()).unwrap();
    assert!(proposer.graph().is_widened(settings) && !proposer.may_narrow(settings), "its file remembers");
}
