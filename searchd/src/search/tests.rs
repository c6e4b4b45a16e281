//! Batches beside single searches, over a collection with two segments, a head, and holes in all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::time::Duration;

use nearfield_proto::log::v1 as log;
use nearfield_proto::v1;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::cache::Caches;
use crate::config;
use crate::engine::settings::Recall;
use crate::filter;
use crate::index::engines::Engines;
use crate::index::segment::Segment;
use crate::store::encode_values;

const DIMENSION: usize = 12;
const ROWS: u64 = 5_000;

/// A store with one collection, and what is in it.
struct World {
    store: Store,
    _directory: tempfile::TempDir,
    sequence: u64,
    points: BTreeMap<String, (Vec<f32>, u64)>,
}

fn id(number: u64) -> String {
    format!("p{number:05}")
}

fn values(random: &mut SmallRng) -> Vec<f32> {
    // Coarse, so that there are ties.
    (0..DIMENSION).map(|_| random.random_range(-4i8..5).into()).collect()
}

impl World {
    fn new() -> Self {
        Self::keeping(0)
    }

    /// With so many bytes for what filters admit.
    fn keeping(filter_bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = config::Cache { result_bytes: 0, vector_bytes: 1 << 20, filter_bytes };
        let store = Store::new(State::default(), Caches::new(&cache));
        let mut world = Self { store, _directory: directory, sequence: 0, points: BTreeMap::new() };
        let settings =
            v1::CollectionSettings { dimension: DIMENSION as u32, metric: "euclidean".into(), ..Default::default() };
        world.apply(log::entry::Change::CreateCollection(log::CreateCollection { settings: Some(settings) }));
        let mut random = SmallRng::seed_from_u64(7);
        let index = world.index();
        for number in 0..ROWS {
            world.put(number, &mut random);
            if number == 2_500 || number == 4_200 {
                let sources = index.sources(1).unwrap();
                index.seal(&sources, world._directory.path(), &Engines::new(2)).unwrap();
            }
        }
        assert!(!index.segments().is_empty());
        world
    }

    fn index(&self) -> Arc<Index> {
        self.store.with_collection(&address(), |_, index| index.clone()).unwrap()
    }

    fn apply(&mut self, change: log::entry::Change) {
        self.sequence += 1;
        self.store.apply([&entry(self.sequence, change)]).unwrap();
    }

    fn put(&mut self, number: u64, random: &mut SmallRng) {
        let point = (values(random), random.random_range(0..1_000));
        self.apply(put(number, &point.0, point.1));
        self.points.insert(id(number), point);
    }

    fn delete(&mut self, number: u64) {
        self.apply(log::entry::Change::Delete(log::Delete { ids: vec![id(number)] }));
        self.points.remove(&id(number));
    }

    /// What an exact search must find.
    fn truth(&self, query: &Query, admitted: std::ops::Range<u64>) -> Vec<String> {
        let (target, own) = match &query.target {
            Target::Values(values) => (values, None),
            Target::Point(id) => (&self.points[id].0, Some(id)),
        };
        let distance = |values: &[f32]| target.iter().zip(values).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let admitted = self.points.iter().filter(|(id, (_, n))| Some(*id) != own && admitted.contains(n));
        let mut all: Vec<_> = admitted.map(|(id, (values, _))| (distance(values), id.clone())).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        all.into_iter().take(query.k).map(|(_, id)| id).collect()
    }
}

fn address() -> Address {
    Address::new("", "c")
}

fn entry(sequence: u64, change: log::entry::Change) -> log::Entry {
    let stamp = log::Stamp { physical: sequence, logical: 0, region: "r".into(), writer: 1 };
    let collection = "c".into();
    log::Entry { origin: 1, sequence, stamp: Some(stamp), tenant: String::new(), collection, change: Some(change) }
}

fn put(number: u64, values: &[f32], n: u64) -> log::entry::Change {
    let metadata = format!("{{\"n\":{n}}}").into();
    let point = log::PutPoint { id: id(number), values: encode_values(values), metadata, version: 1 };
    log::entry::Change::Put(log::Put { points: vec![point] })
}

/// A query, and what its filter means.
#[derive(Clone, Debug)]
struct Asked {
    query: Query,
    below: Option<u64>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let target = prop_oneof![
        4 => any::<u64>().prop_map(|seed| Target::Values(values(&mut SmallRng::seed_from_u64(seed)))),
        1 => (0..ROWS).prop_map(|number| Target::Point(id(number))),
    ];
    let effort = prop_oneof![
        2 => Just(None),
        1 => (1u32..200).prop_map(|ef| Some(Effort::Candidates(ef))),
        1 => Just(Recall::new(0.9).map(Effort::Recall)),
    ];
    let below = prop::option::of(prop::sample::select(vec![0u64, 2, 30, 500, 1_000]));
    let include = (any::<bool>(), any::<bool>()).prop_map(|(metadata, values)| Include { metadata, values });
    let numbers = prop_oneof![4 => 1usize..20, 1 => Just(1_500)];
    (target, effort, below, include, numbers, any::<bool>()).prop_map(|(target, effort, below, include, k, exact)| {
        let filter = below.map(|end| filter::parse(format!("{{\"n\":{{\"$lt\":{end}}}}}").as_bytes(), "").unwrap());
        let query = Query {
            address: address(),
            target,
            k,
            effort,
            exact,
            filter: filter.map(Arc::new),
            include,
            explain: false,
        };
        Asked { query, below }
    })
}

#[derive(Clone, Debug)]
enum Write {
    Put(u64, u64),
    Delete(u64),
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = prop_oneof![
        2 => (0..ROWS, any::<u64>()).prop_map(|(number, seed)| Write::Put(number, seed)),
        1 => (0..ROWS).prop_map(Write::Delete),
    ];
    prop::collection::vec(write, 0..40)
}

#[test]
fn a_batch_answers_what_its_searches_answer_alone() {
    let world = parking_lot::Mutex::new(World::new());
    let rounds = (writes(), prop::collection::vec(asked(), 1..24));
    proptest!(ProptestConfig::with_cases(60), |((writes, asked) in rounds)| {
        let mut world = world.lock();
        for write in writes {
            match write {
                Write::Put(number, seed) => world.put(number, &mut SmallRng::seed_from_u64(seed)),
                Write::Delete(number) => world.delete(number),
            }
        }
        let queries: Vec<&Query> = asked.iter().map(|asked| &asked.query).collect();
        let together = run_all(&world.store, &queries, &Stop::default());
        for (Asked { query, below }, found) in asked.iter().zip(together) {
            match (run(&world.store, query, &Stop::default()), found) {
                (Ok(alone), Ok(found)) => {
                    prop_assert_eq!(&found, &alone);
                    let truth = world.truth(query, 0..below.unwrap_or(u64::MAX));
                    prop_assert_eq!(found.hits.len(), truth.len(), "as many as there are");
                    if query.exact {
                        prop_assert_eq!(found.hits.into_iter().map(|hit| hit.id).collect::<Vec<_>>(), truth);
                    }
                }
                (Err(Error::NoPoint), Err(Error::NoPoint)) => {
                    let Target::Point(id) = &query.target else { panic!("it starts from a vector") };
                    prop_assert!(!world.points.contains_key(id));
                }
                (alone, found) => panic!("{alone:?} alone, {found:?} in a batch"),
            }
        }
    });
}

#[test]
fn a_batch_beside_writes_gives_whole_answers_of_what_is_there() {
    let world = World::new();
    let (store, first) = (&world.store, world.sequence);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = SmallRng::seed_from_u64(9);
            let mut sequence = first;
            while !done.load(Atomic::Relaxed) {
                sequence += 1;
                // The number stays on its side of the filter.
                let number = random.random_range(0..ROWS);
                let n = if number.is_multiple_of(2) { 100 } else { 900 };
                store.apply([&entry(sequence, put(number, &values(&mut random), n))]).unwrap();
            }
        });
        let mut random = SmallRng::seed_from_u64(10);
        for round in 0..30 {
            let filter = filter::parse(br#"{"n":{"$exists":true}}"#, "").map(Arc::new).ok();
            let queries: Vec<Query> = (0..12)
                .map(|i| Query {
                    address: address(),
                    target: Target::Values(values(&mut random)),
                    k: 50,
                    effort: None,
                    exact: i % 3 == 0,
                    filter: filter.clone().filter(|_| i % 2 == 0),
                    include: Include { metadata: true, values: true },
                    explain: false,
                })
                .collect();
            let answers = run_all(store, &queries.iter().collect::<Vec<_>>(), &Stop::default());
            for (query, answer) in queries.iter().zip(answers) {
                let hits = answer.unwrap().hits;
                let ids: BTreeSet<_> = hits.iter().map(|hit| &hit.id).collect();
                assert_eq!((hits.len(), ids.len()), (50, 50), "round {round}");
                let Target::Values(target) = &query.target else { panic!("it starts from a vector") };
                for hit in &hits {
                    let squared: f32 = target.iter().zip(&hit.values).map(|(a, b)| (a - b) * (a - b)).sum();
                    assert!((squared.sqrt() - hit.score).abs() < 1e-4, "the score is that of the vector shown");
                }
                assert!(hits.is_sorted_by(|a, b| (a.score, &a.id) <= (b.score, &b.id)), "round {round}");
            }
        }
        done.store(true, Atomic::Relaxed);
    });
}

#[test]
fn a_filter_that_several_have_is_evaluated_once_and_each_is_explained() {
    let world = World::new();
    let filter = |json: &str| Some(Arc::new(filter::parse(json.as_bytes(), "").unwrap()));
    let query = |exact, filter| Query {
        address: address(),
        target: Target::Values(vec![0.5; DIMENSION]),
        k: 10,
        effort: None,
        exact,
        filter,
        include: Include::default(),
        explain: true,
    };
    let queries = [
        query(true, filter(r#"{"n":{"$lt":20}}"#)),
        query(true, filter(r#"{"n":{"$lt":20.0}}"#)),
        query(false, filter(r#"{"n":{"$lt":700}}"#)),
        query(false, None),
    ];
    let answers = run_all(&world.store, &queries.iter().collect::<Vec<_>>(), &Stop::default());
    let explained: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().explanation.unwrap()).collect();
    let used = |i: usize| explained[i].filter.as_ref().unwrap();
    assert_eq!((used(0).kept, used(1).kept, used(2).kept), (false, true, false));
    assert_eq!((used(0).admitted, used(1).read), (used(1).admitted, 0));
    assert!(explained[3].filter.is_none());
    for (query, explanation) in queries.iter().zip(&explained) {
        let phases: Vec<_> = explanation.phases.iter().map(|(phase, _)| *phase).collect();
        assert_eq!(phases, ["open", "filter", "search", "gather"]);
        let alone = run(&world.store, query, &Stop::default()).unwrap().explanation.unwrap();
        let without_time = |step: &crate::index::plan::Step| {
            let took = Duration::ZERO;
            crate::index::plan::Step { took, ..step.clone() }
        };
        let steps = |explanation: &Explanation| explanation.trail.iter().map(without_time).collect::<Vec<_>>();
        assert_eq!((steps(explanation), explanation.points, explanation.attempts), (steps(&alone), alone.points, 1));
    }
}

#[test]
fn what_a_filter_admitted_before_is_known_again_after_a_few_writes() {
    let mut world = World::keeping(1 << 20);
    let address = address();
    while world
        .store
        .with_collection(&address, |collection, _| collection.incarnation)
        .is_some_and(|incarnation| world.store.read_metadata(&address, incarnation, 512))
    {}
    let query = Query {
        address,
        target: Target::Values(vec![0.5; DIMENSION]),
        k: 100,
        effort: None,
        exact: true,
        filter: filter::parse(br#"{"n":{"$lt":500},"$not":{"n":{"$lt":100}}}"#, "").ok().map(Arc::new),
        include: Include::default(),
        explain: true,
    };
    let mut random = SmallRng::seed_from_u64(3);
    let mut kept = 0;
    for round in 0..60 {
        let changes = if round % 7 == 6 { 600 } else { round % 4 };
        for _ in 0..changes {
            let number = random.random_range(0..ROWS + 50);
            if random.random_range(0..4) == 0 && number < ROWS {
                world.delete(number);
            } else {
                world.put(number, &mut random);
            }
        }
        let answer = run(&world.store, &query, &Stop::default()).unwrap();
        let used = answer.explanation.unwrap().filter.unwrap();
        let admitted = world.points.values().filter(|(_, n)| (100..500).contains(n)).count();
        assert_eq!(used.admitted, admitted as u64, "round {round}");
        let found: Vec<String> = answer.hits.into_iter().map(|hit| hit.id).collect();
        assert_eq!(found, world.truth(&query, 100..500), "round {round}");
        assert_eq!(used.kept, round > 0 && changes < 600, "round {round}");
        assert!(used.read <= changes, "round {round}: only what changed is looked at");
        kept += u64::from(used.kept);
    }
    assert_eq!(world.store.masks().counts.hits.load(Atomic::Relaxed), kept);
}

#[test]
fn what_is_wrong_with_one_search_is_told_to_it_alone() {
    let world = World::new();
    let query = |target| Query {
        address: address(),
        target,
        k: 3,
        effort: None,
        exact: false,
        filter: None,
        include: Include::default(),
        explain: false,
    };
    let good = query(Target::Values(vec![0.0; DIMENSION]));
    let queries = [query(Target::Values(vec![0.0; 3])), good.clone(), query(Target::Point("none".into()))];
    let queries: Vec<&Query> = queries.iter().collect();
    let answers = run_all(&world.store, &queries, &Stop::default());
    assert!(matches!(answers[0], Err(Error::Dimension { expected: DIMENSION, actual: 3 })));
    assert_eq!(answers[1].as_ref().unwrap().hits.len(), 3);
    assert!(matches!(answers[2], Err(Error::NoPoint)));
    let stop = Stop::default();
    stop.cancelled.cancel();
    let answers = run_all(&world.store, &queries, &stop);
    assert!(answers.iter().all(|answer| matches!(answer, Err(Error::Stopped(Stopped::Cancelled)))), "{answers:?}");
}

#[test]
fn an_answer_that_needs_a_damaged_vector_is_refused_by_name() {
    let world = World::new();
    let before = world.index();
    let segment = before.segments().remove(0);
    let file = crate::index::segment::vectors_file(world._directory.path(), segment.part());
    let mut bytes = std::fs::read(&file).unwrap();
    // A bit of the first row, in a copy: the file itself is mapped.
    bytes[64 + 1] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let after = world.store.new_index(before.settings.clone(), 1);
    for segment in before.segments() {
        let settings = &before.settings;
        let opened = Segment::open_unchecked(world._directory.path(), segment.sealed, settings, &Engines::new(2));
        after.restore_segment(opened.unwrap());
    }
    let sealed = (0..ROWS as Slot).map(|slot| before.row(slot).filter(|row| before.is_sealed(*row)));
    assert!(after.restore_rows(sealed.collect()));
    let slot = segment.vectors.slot(0);
    let (name, incarnation) = world
        .store
        .with_collection(&address(), |collection, _| {
            (collection.slot(slot).unwrap().0.to_owned(), collection.incarnation)
        })
        .unwrap();
    world.store.restore_index(incarnation, Arc::new(after));
    let query = |target, filter: &str, include| Query {
        address: address(),
        target,
        k: 2_000,
        effort: None,
        exact: true,
        filter: (!filter.is_empty()).then(|| Arc::new(filter::parse(filter.as_bytes(), "").unwrap())),
        include,
        explain: false,
    };
    let n = world.points[&name].1;
    let others = format!("{{\"n\":{{\"$ne\":{n}}}}}");
    let queries = [
        query(Target::Values(vec![0.0; DIMENSION]), "", Include::default()),
        query(Target::Point(name.clone()), &others, Include::default()),
        query(Target::Values(vec![0.0; DIMENSION]), &others, Include { metadata: true, values: true }),
    ];
    let answers = run_all(&world.store, &queries.iter().collect::<Vec<_>>(), &Stop::default());
    for answer in &answers[..2] {
        let Err(Error::Damaged { segment: part, id }) = answer else { panic!("{answer:?}") };
        assert_eq!((*part, id), (segment.part(), &name));
    }
    assert_eq!(answers[2].as_ref().unwrap().hits.len(), 2_000, "what does not need it is answered");
}

#[test]
fn hits_that_are_looked_up_late_show_nothing_that_was_not_found() {
    let mut world = World::new();
    let filter = filter::parse(br#"{"n":{"$lt":900}}"#, "").map(Arc::new).ok();
    let query = Query {
        address: address(),
        target: Target::Values(vec![0.25; DIMENSION]),
        k: 1_000,
        effort: None,
        exact: false,
        filter,
        include: Include { metadata: true, values: true },
        explain: false,
    };
    let before = run(&world.store, &query, &Stop::default()).unwrap().hits;
    let hits = hits::find(&world.store, query.clone(), &Stop::default()).unwrap();
    let in_blocks = |store: &Store, from: usize| {
        let blocks = (from..hits.len())
            .step_by(128)
            .map(|start| hits.look_up(store, start..hits.len().min(start + 128)).unwrap());
        blocks.flatten().collect::<Vec<_>>()
    };
    assert_eq!(in_blocks(&world.store, 0), before, "without a write it is the answer");
    // A row that moves to a segment is the same row.
    let index = world.index();
    let sources = index.sources_at_rest(Duration::ZERO).unwrap();
    index.seal(&sources, world._directory.path(), &Engines::new(2)).unwrap();
    assert_eq!(in_blocks(&world.store, 0), before);
    let number = |place: usize| before[place].id[1..].parse::<u64>().unwrap();
    let (deleted, replaced, excluded, changed) = (300, 301, 302, 303);
    world.delete(number(deleted));
    world.put(number(replaced), &mut SmallRng::seed_from_u64(1));
    let patch = |place: usize, n: &str| {
        let metadata = [("n".to_owned(), n.to_owned().into())].into_iter().collect();
        log::entry::Change::Patch(log::Patch {
            id: before[place].id.clone(),
            values: Bytes::new(),
            metadata,
            version: 2,
        })
    };
    world.apply(patch(excluded, "950"));
    world.apply(patch(changed, "17"));
    let expected: Vec<Found> = before
        .iter()
        .enumerate()
        .filter_map(|(place, found)| match place {
            _ if place == deleted || place == replaced || place == excluded => None,
            _ if place == changed => Some(Found { metadata: r#"{"n":17}"#.into(), ..found.clone() }),
            _ => Some(found.clone()),
        })
        .collect();
    assert_eq!(in_blocks(&world.store, 0), expected);
    world.apply(log::entry::Change::DeleteCollection(log::DeleteCollection {}));
    assert_eq!(in_blocks(&world.store, 0), []);
}
