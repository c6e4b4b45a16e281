//! A calibration follows what users ask.

use super::*;

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
    let index = index(64, "cosine", "int8");
    let rows = clustered(4_096, 64, 11);
    rows.iter().enumerate().for_each(|(slot, values)| index.put(slot as Slot, values));
    seal(&index, directory.path());
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
    let sources = Sources::of_segments(index.segments());
    index.seal(&sources, directory.path(), &builder()).unwrap();
    assert!(!index.learn(&stop).unwrap());
    assert!(usual(&index) > easy);
}

#[test]
fn a_trial_ends_when_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(16, "euclidean", "pq");
    let rows = clustered(2_048, 16, 3);
    rows.iter().enumerate().for_each(|(slot, values)| index.put(slot as Slot, values));
    seal(&index, directory.path());
    ask(&index, &rows[..200]);
    let stop = Stop::default();
    stop.cancelled.cancel();
    assert!(matches!(index.learn(&stop), Err(graph::Error::Stopped(_))));
    assert!(index.learn(&Stop::default()).unwrap(), "it is tried later");
}
