mod backlog;
mod beside_writes;
mod churn;
mod filtered;
mod forms;
mod glance;
mod grown;
mod learning;
mod mapped;
mod partitioned;

use std::path::{Path, PathBuf};

use nearfield_proto::v1;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::engines::Engines;
use super::*;
use crate::engine::settings::{Quantization, Recall};
use crate::index::graph::Builder;
use crate::index::seal::Sources;

fn builder() -> Engines {
    Engines::new(2)
}

fn index(dimension: u32, metric: &str, quantization: &str) -> Index {
    let message = v1::CollectionSettings {
        dimension,
        metric: metric.into(),
        quantization: quantization.into(),
        ..Default::default()
    };
    Index::new(Settings::from_message(&message).unwrap(), Kernel::detect())
}

/// Vectors in clusters, as embeddings are: uniform noise has no neighbourhoods to find.
fn clustered(rows: usize, dimension: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut noise = move || (0..4).map(|_| random.random_range(-1.0f32..1.0)).sum::<f32>();
    let centres: Vec<Vec<f32>> = (0..40).map(|_| (0..dimension).map(|_| noise() * 2.0).collect()).collect();
    (0..rows).map(|row| centres[row % 40].iter().map(|centre| centre + noise()).collect()).collect()
}

#[derive(Clone, Copy)]
struct Ask<'a> {
    k: usize,
    ef: u32,
    exact: bool,
    admitted: Option<&'a Admitted>,
}

const ASK: Ask<'static> = Ask { k: 10, ef: 64, exact: false, admitted: None };

fn found(index: &Index, query: &[f32], ask: Ask<'_>) -> Vec<Slot> {
    let scorer = index.scorer(query);
    let Ask { k, ef, exact, admitted } = ask;
    let effort = Effort::Candidates(ef);
    let wanted = Wanted { scorer: &scorer, k, effort, exact, admitted, except: None };
    let (hits, _) = index.search(&wanted, &|a, b| a.cmp(&b), &Stop::default()).unwrap().unwrap();
    assert!(hits.iter().all(|hit| index.row(hit.slot) == Some(hit.row)), "only live rows are found");
    hits.into_iter().map(|hit| hit.slot).collect()
}

fn seal(index: &Index, directory: &Path) {
    let sources = index.sources(1).expect("full chunks or dead rows");
    index.seal(&sources, directory, &builder()).unwrap();
}

fn recall(index: &Index, queries: &[Vec<f32>], ask: Ask<'_>) -> f64 {
    let (mut hits, mut all) = (0, 0);
    for query in queries {
        let exact = found(index, query, Ask { exact: true, ..ask });
        let approximate = found(index, query, ask);
        assert_eq!(approximate.len(), exact.len(), "as many hits as there are");
        hits += exact.iter().filter(|slot| approximate.contains(slot)).count();
        all += exact.len();
    }
    hits as f64 / all as f64
}

fn check_recall(metric: &str, quantization: &str, dimension: usize, least: f64) {
    let directory = tempfile::tempdir().unwrap();
    let index = index(dimension as u32, metric, quantization);
    for (slot, values) in clustered(2_048, dimension, 1).iter().enumerate() {
        index.put(slot as Slot, values);
    }
    seal(&index, directory.path());
    assert_eq!((index.segments().len(), index.segments()[0].live()), (1, 2_048));
    let recall = recall(&index, &clustered(50, dimension, 2), ASK);
    assert!(recall >= least, "{metric} {quantization} at {dimension}: recall {recall}");
}

#[test]
fn every_metric_and_code_finds_what_is_near() {
    for metric in ["cosine", "dot", "euclidean"] {
        for quantization in ["none", "f16", "bf16", "int8", "pq"] {
            check_recall(metric, quantization, 48, 0.95);
        }
        check_recall(metric, "binary", 256, 0.85);
        check_recall(metric, "pq", 256, 0.95);
    }
}

#[test]
fn every_row_can_be_found_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(32, "euclidean", "bf16");
    let rows = clustered(4_096, 32, 3);
    for (slot, values) in rows.iter().enumerate() {
        index.put(slot as Slot, values);
    }
    seal(&index, directory.path());
    let lost = rows.iter().enumerate().filter(|(slot, row)| !found(&index, row, ASK).contains(&(*slot as Slot)));
    assert_eq!(lost.count(), 0);
}

#[test]
fn replaced_and_removed_rows_are_not_found_whenever_they_went() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(16, "euclidean", "bf16");
    let rows = clustered(3_000, 16, 6);
    for (slot, values) in rows.iter().enumerate() {
        index.put(slot as Slot, values);
    }
    let sources = index.sources(1).unwrap();
    // Between the choice of sources and the end of the building.
    index.remove(0);
    index.put(1, &[1_000.0; 16]);
    index.seal(&sources, directory.path(), &builder()).unwrap();
    index.remove(2);
    index.put(3, &[2_000.0; 16]);
    for gone in 0..4 {
        let hits = found(&index, &rows[gone as usize], Ask { k: 100, ..ASK });
        assert!(!hits[..50].contains(&gone), "{gone}");
    }
    assert_eq!(found(&index, &[1_000.0; 16], Ask { k: 1, ..ASK }), [1]);
    assert_eq!(index.values(3).unwrap().unwrap(), [2_000.0; 16]);
    assert_eq!(index.values(2), Ok(None));
    for slot in 0..700 {
        index.remove(slot);
    }
    // More than a fifth is dead: the segment is written anew without it.
    let sources = index.sources(100).expect("a rotten segment");
    index.seal(&sources, directory.path(), &builder()).unwrap();
    assert!(index.segments()[0].dead.is_empty());
    assert_eq!(found(&index, &rows[1_000], Ask { k: 1, ..ASK }), [1_000]);
}

#[test]
fn segments_merge_until_they_are_few() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(8, "euclidean", "bf16");
    let rows = clustered(16 * 1_024, 8, 7);
    for (i, values) in rows.iter().enumerate() {
        index.put(i as Slot, values);
        while let Some(sources) = index.sources(2) {
            index.seal(&sources, directory.path(), &builder()).unwrap();
        }
    }
    assert!(index.segments().len() <= 3, "{} segments", index.segments().len());
    let live: usize = index.segments().iter().map(|segment| segment.live()).sum();
    assert_eq!(live, rows.len());
    assert!(recall(&index, &clustered(30, 8, 8), ASK) >= 0.95);
}

#[test]
fn a_restored_index_answers_as_before() {
    let directory = tempfile::tempdir().unwrap();
    let before = index(16, "cosine", "bf16");
    for (slot, values) in clustered(2_048, 16, 9).iter().enumerate() {
        before.put(slot as Slot, values);
    }
    seal(&before, directory.path());
    before.remove(5);
    let segment = before.segments().remove(0);
    let after = index(16, "cosine", "bf16");
    after.restore_segment(Segment::open(directory.path(), segment.sealed, &after.settings, &builder()).unwrap());
    assert!(after.restore_rows((0..2_048).map(|slot| before.row(slot)).collect()));
    for query in clustered(20, 16, 10) {
        assert_eq!(found(&after, &query, ASK), found(&before, &query, ASK));
    }
}

/// An index with one segment, and what restores it.
struct Stored {
    directory: tempfile::TempDir,
    index: Index,
    rows: Vec<Vec<f32>>,
}

impl Stored {
    fn new(quantization: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let index = index(24, "cosine", quantization);
        let rows = clustered(2_048, 24, 9);
        for (slot, values) in rows.iter().enumerate() {
            index.put(slot as Slot, values);
        }
        seal(&index, directory.path());
        Self { directory, index, rows }
    }

    fn sealed(&self) -> segment::Sealed {
        self.index.segments()[0].sealed
    }

    fn vectors_file(&self) -> PathBuf {
        segment::vectors_file(self.directory.path(), self.sealed().part)
    }

    fn graph_file(&self) -> PathBuf {
        segment::graph_file(self.directory.path(), self.sealed().part)
    }

    /// As after a restart.
    fn reopened(&self) -> Result<Index, segment::Error> {
        self.restored(Segment::open(self.directory.path(), self.sealed(), &self.index.settings, &builder())?)
    }

    /// As after a restart with more than is checked at once.
    fn reopened_unchecked(&self) -> Index {
        let (directory, settings) = (self.directory.path(), &self.index.settings);
        self.restored(Segment::open_unchecked(directory, self.sealed(), settings, &builder()).unwrap()).unwrap()
    }

    fn restored(&self, segment: Segment) -> Result<Index, segment::Error> {
        let index = Index::new(self.index.settings.clone(), Kernel::detect());
        index.restore_segment(segment);
        assert!(index.restore_rows((0..2_048).map(|slot| self.index.row(slot)).collect()));
        Ok(index)
    }

    fn agrees(&self, other: &Index) -> bool {
        clustered(20, 24, 10).iter().all(|query| found(other, query, ASK) == found(&self.index, query, ASK))
    }
}

/// Changes a file under its name; whoever has the old one mapped keeps it.
fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes);
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn damaged_graphs_are_noticed_and_built_anew() {
    for quantization in ["pq", "none"] {
        let stored = Stored::new(quantization);
        let whole = std::fs::read(stored.graph_file()).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 23) {
            change(&stored.graph_file(), |bytes| bytes[at] ^= 4);
            let index = stored.reopened().unwrap();
            assert!(!index.segments()[0].is_whole(), "byte {at} of {quantization}");
            assert!(recall(&index, &clustered(5, 24, 10), ASK) == 1.0, "without a graph every row is compared");
            change(&stored.graph_file(), |bytes| bytes.clone_from(&whole));
        }
        for length in [0, 63, 200, whole.len() / 2, whole.len() - 1] {
            change(&stored.graph_file(), |bytes| bytes.truncate(length));
            assert!(!stored.reopened().unwrap().segments()[0].is_whole(), "cut off at {length}");
        }
        let index = stored.reopened().unwrap();
        index.remove(3);
        assert_eq!(index.mend(stored.directory.path(), &builder()).unwrap(), 1);
        assert!(index.segments()[0].is_whole() && index.segments()[0].dead.len() == 1);
        assert_eq!(index.segments()[0].sealed, stored.sealed(), "equal vectors give an equal graph");
        assert!(!found(&index, &stored.rows[3], ASK).contains(&3));
        assert!(stored.reopened().unwrap().segments()[0].is_whole());
        assert!(stored.agrees(&stored.reopened().unwrap()));
    }
}

/// Graphs that lose some of their rows.
struct Forgetful(Engines);

struct Lossy(Box<dyn graph::Graph>, u32);

impl Builder for Forgetful {
    fn build(
        &self,
        settings: &Settings,
        vectors: &vectors::Vectors,
        sources: &[graph::Source<'_>],
        trial: &trial::Trial<'_>,
    ) -> Result<(Box<dyn graph::Graph>, calibration::Calibration), graph::Error> {
        let (graph, calibration) = self.0.build(settings, vectors, sources, trial)?;
        // Kinds of floats lose every third row, others a few.
        let every = if settings.quantization == Quantization::None { 3 } else { 500 };
        Ok((Box::new(Lossy(graph, every)), calibration))
    }

    fn open(
        &self,
        settings: &Settings,
        vectors: &vectors::Vectors,
        stored: graph::Stored,
    ) -> Result<Box<dyn graph::Graph>, graph::Error> {
        self.0.open(settings, vectors, stored)
    }
}

impl graph::Graph for Lossy {
    fn kind(&self) -> graph::Kind {
        self.0.kind()
    }
    fn propose(&self, asked: &graph::Asked<'_>) -> Result<graph::Proposal, graph::Error> {
        let mut proposal = self.0.propose(asked)?;
        proposal.rows.retain(|row| row % self.1 != 0);
        Ok(proposal)
    }
    fn costs(&self, search: graph::Cost) -> plan::Proposing {
        self.0.costs(search)
    }
    fn least(&self, k: usize) -> usize {
        self.0.least(k)
    }
    fn unreachable(&self, vectors: &vectors::Vectors) -> Result<Vec<u32>, graph::Error> {
        Ok((0..vectors.len() as u32).filter(|row| row % self.1 == 0).collect())
    }
    fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes()
    }
    fn to_bytes(&self) -> Result<Vec<u8>, graph::Error> {
        self.0.to_bytes()
    }
}

#[test]
fn at_rest_all_rows_become_one_segment_later_where_little_has_come() {
    let directory = tempfile::tempdir().unwrap();
    let index = index(24, "euclidean", "pq");
    let rows = clustered(7_900, 24, 11);
    let settle_after = |quiet| {
        while let Some(sources) = index.sources_at_rest(quiet) {
            index.seal(&sources, directory.path(), &builder()).unwrap();
        }
        index.segments().iter().map(|segment| segment.live()).collect::<Vec<_>>()
    };
    let settle = || settle_after(Duration::ZERO);
    let put = |range: std::ops::Range<usize>| {
        let before = index.written();
        range.clone().for_each(|slot| index.put(slot as Slot, &rows[slot]));
        assert_ne!(index.written(), before);
    };
    put(0..200);
    assert_eq!(settle(), [0; 0], "a few rows are as well compared");
    put(200..5_000);
    assert_eq!(settle(), [5_000]);
    put(5_000..5_300);
    assert_eq!(settle(), [5_000, 300], "too little to write all anew for");
    put(5_300..5_600);
    assert_eq!(settle(), [5_600]);
    put(5_600..5_900);
    assert_eq!(settle_after(Duration::from_secs(2)), [5_600, 300], "too soon");
    assert_eq!(settle_after(Duration::from_secs(3)), [5_900]);
    put(5_900..7_900);
    assert_eq!(settle(), [7_900]);
    let before = index.segments()[0].part();
    let settled = settle_after(Duration::MAX);
    assert_eq!((settled, index.segments()[0].part()), (vec![7_900], before), "at rest, nothing is done");
    for slot in (0..7_900).step_by(97) {
        assert_eq!(found(&index, &rows[slot], Ask { k: 1, ..ASK }), [slot as Slot]);
    }
}

#[test]
fn rows_that_a_graph_does_not_lead_to_are_found_all_the_same() {
    for quantization in ["pq", "none"] {
        let directory = tempfile::tempdir().unwrap();
        let index = index(24, "euclidean", quantization);
        let rows = clustered(2_048, 24, 11);
        for (slot, values) in rows.iter().enumerate() {
            index.put(slot as Slot, values);
        }
        let sources = index.sources(1).unwrap();
        index.seal(&sources, directory.path(), &Forgetful(builder())).unwrap();
        let segment = index.segments().remove(0);
        // A graph that loses too many gives way to one of another kind.
        assert_eq!(segment.proposer().unwrap().kind(), graph::Kind::Packed);
        let lost = |index: &Index| {
            let all = rows.iter().enumerate();
            all.filter(|(slot, row)| !found(index, row, ASK).contains(&(*slot as Slot))).count()
        };
        assert_eq!(lost(&index), 0);
        let again = Index::new(index.settings.clone(), Kernel::detect());
        again.restore_segment(Segment::open(directory.path(), segment.sealed, &index.settings, &builder()).unwrap());
        assert!(again.restore_rows((0..2_048).map(|slot| index.row(slot)).collect()));
        assert_eq!(lost(&again), 0);
    }
}

#[test]
fn a_graph_of_an_unknown_kind_or_layout_is_a_clear_error() {
    let stored = Stored::new("pq");
    for (at, value, words) in [(7, 9, "layout 9"), (8, 77, "graph kind 77")] {
        let whole = std::fs::read(stored.graph_file()).unwrap();
        change(&stored.graph_file(), |bytes| {
            bytes[at] = value;
            let checksum = crc32fast::hash(&bytes[..28]);
            bytes[28..32].copy_from_slice(&checksum.to_le_bytes());
        });
        let Err(segment::Error::Graph { source, .. }) = stored.reopened() else { panic!("it was opened") };
        assert!(source.to_string().contains(words), "{source}");
        change(&stored.graph_file(), |bytes| bytes.clone_from(&whole));
    }
}

#[test]
fn damaged_vectors_are_told_to_whoever_needs_them_and_reported() {
    let stored = Stored::new("pq");
    let whole = std::fs::read(stored.vectors_file()).unwrap();
    // The exponent: the row seems to be far away from where it is.
    change(&stored.vectors_file(), |bytes| bytes[64 + 24 * 4 * 7 + 3] ^= 64);
    assert!(matches!(stored.reopened(), Err(segment::Error::Io { .. })), "small files are checked whole");
    let index = stored.reopened_unchecked();
    let slot = index.segments()[0].vectors.slot(7);
    let query = stored.rows[slot as usize].clone();
    let scorer = index.scorer(&query);
    let others: Admitted = (0..2_048).filter(|other| *other != slot).collect();
    let wanted = |exact, admitted| Wanted {
        scorer: &scorer,
        k: 5,
        effort: Effort::Candidates(64),
        exact,
        admitted,
        except: None,
    };
    let asked = [wanted(false, None), wanted(false, Some(&others)), wanted(true, None), wanted(true, Some(&others))];
    let damaged = Damaged { row: stored.index.row(slot).unwrap(), slot };
    let answers = index.search_all(&asked, &|a, b| a.cmp(&b), &Stop::default()).unwrap();
    for (wanted, answer) in asked.iter().zip(answers) {
        match wanted.admitted {
            None => assert_eq!(answer, Err(damaged.into())),
            Some(_) => {
                let found: Vec<_> = answer.unwrap().0.iter().map(|hit| hit.slot).collect();
                let ask = Ask { k: 5, exact: wanted.exact, admitted: Some(&others), ..ASK };
                assert_eq!(found, self::found(&stored.index, &query, ask), "what does not need the row is answered");
            }
        }
    }
    assert_eq!((index.values(slot), index.values(slot + 1).is_ok()), (Err(damaged), true));
    // More than a fifth is dead, but a segment with damage stays as it is until the row is not needed any more.
    (1_000..1_600).for_each(|slot| index.remove(slot + u32::from(slot == damaged.slot)));
    assert!(index.sources(1).is_none(), "not checked yet");
    assert_eq!(index.check_one(stored.directory.path()), Some(1));
    assert_eq!(index.check_one(stored.directory.path()), None, "once is enough");
    assert!(index.sources(1).is_none(), "damaged");
    index.put(slot, &query);
    assert_eq!(found(&index, &query, Ask { k: 1, ..ASK }), [slot], "stored anew, it is well");
    assert!(index.sources(1).is_some());
    // Whatever is not a row's values is checked when the file is opened.
    let tables = 64 + 2_048 * 24 * 4;
    for at in (0..64).chain((tables..whole.len()).step_by(997)) {
        change(&stored.vectors_file(), |bytes| {
            bytes.clone_from(&whole);
            bytes[at] ^= 1;
        });
        assert!(matches!(stored.reopened(), Err(segment::Error::Io { .. })), "byte {at}");
    }
    for length in [0, 63, 64, tables, whole.len() - 1] {
        change(&stored.vectors_file(), |bytes| {
            bytes.clone_from(&whole);
            bytes.truncate(length);
        });
        assert!(matches!(stored.reopened(), Err(segment::Error::Io { .. })), "cut off at {length}");
    }
    change(&stored.vectors_file(), |bytes| bytes.clone_from(&whole));
    assert_eq!(stored.reopened().unwrap().check_one(stored.directory.path()), None);
    let index = stored.reopened_unchecked();
    assert_eq!(index.check_one(stored.directory.path()), Some(0));
    assert!(stored.agrees(&index));
}
