//! Partitions against an exact oracle, against damage, and their kernels against each other.

use std::sync::atomic::AtomicBool;

use super::super::BuildError;
use super::super::checks::sums;
use super::super::kernel::lists::{BLOCK_ROWS, GROUP, MAX_ACROSS, MAX_ENTRY, PLANE, SIDE};
use super::*;

const HEADER: usize = 128;
/// Where the header has the lengths of the first six sections, and of the three that partitions have.
const LENGTHS: [usize; 9] = [48, 56, 64, 72, 80, 88, 104, 112, 120];

fn partitioned(metric: Metric, rows: &Table, width: Width) -> Graph {
    let mut graph = Graph::build(metric, rows, width, &PLAN).unwrap();
    graph.partition_any(rows, None).unwrap();
    graph
}

/// Not the portable one, which walks.
fn scanning() -> impl Iterator<Item = Kernel> {
    levels().filter(|kernel| kernel.level() != Level::Portable)
}

#[test]
fn partitions_find_what_a_walk_finds() {
    for dimension in [7, 24] {
        let rows = Table::clustered(4_000, dimension, 5);
        for metric in [Metric::Cosine, Metric::Dot] {
            let mut graph = partitioned(metric, &rows, Width::Eight);
            for width in [Width::Eight, Width::Four] {
                graph.repack(&rows, width);
                let by_partitions = recall(&graph, &rows, metric);
                graph.kernel = Kernel::of(Level::Portable);
                let by_a_walk = recall(&graph, &rows, metric);
                graph.kernel = Kernel::detect();
                let least = by_a_walk.min(0.99) - 0.01;
                assert!(by_partitions >= least, "{metric:?} {width:?} {dimension}: {by_partitions} {by_a_walk}");
            }
        }
    }
}

#[test]
fn more_candidates_find_more_until_all_is_found() {
    let rows = Table::clustered(3_000, 24, 5);
    let graph = partitioned(Metric::Cosine, &rows, Width::Eight);
    let mut searcher = Searcher::default();
    let found = [1, 20, 3_000].map(|ef| {
        let hits = (0..40).map(|i| {
            let query = rows.row(i * 31);
            let oracle = Oracle { rows: &rows, metric: Metric::Cosine, query };
            let nearest = oracle.nearest(10, |_| true);
            let wanted = Wanted { ef, rescored: ef, ..wanted(query) };
            let hits = graph.search(&mut searcher, &wanted, &oracle).unwrap();
            hits.iter().filter(|hit| hit.distance <= nearest[9].distance).count()
        });
        hits.sum::<usize>()
    });
    assert!(found.is_sorted() && found[0] < found[1], "{found:?}");
    assert_eq!(found[2], 400, "every row is in some list");
}

#[test]
fn every_instruction_set_makes_and_finds_the_same() {
    let rows = Table::clustered(2_000, 17, 5);
    let graph = partitioned(Metric::Cosine, &rows, Width::Eight);
    let mut plain =
        Graph::build_by(Kernel::of(Level::Portable), Metric::Cosine, &rows, Width::Eight, &PLAN, &[]).unwrap();
    plain.partition_any(&rows, None).unwrap();
    assert!(plain.to_bytes() == graph.to_bytes());
    let answers = scanning().map(|kernel| {
        plain.kernel = kernel;
        let mut searcher = Searcher::default();
        let queries = (0..50).map(|i| rows.row(i * 17));
        queries.map(|query| plain.propose(&mut searcher, &wanted(query)).unwrap().rows.to_vec()).collect::<Vec<_>>()
    });
    let answers: Vec<_> = answers.collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[test]
fn only_what_is_worth_it_is_partitioned() {
    let rows = Table::clustered(500, 8, 5);
    let mut graph = Graph::build(Metric::Cosine, &rows, Width::Eight, &PLAN).unwrap();
    graph.partition(&rows, None).unwrap();
    assert!(!graph.is_partitioned(), "a walk through few rows is as fast");
    assert_eq!(graph.partition_any(&rows, Some(&AtomicBool::new(true))), Err(BuildError::Stopped));
    assert!(!graph.is_partitioned());
    graph.partition_any(&rows, Some(&AtomicBool::new(false))).unwrap();
    assert_eq!(graph.is_partitioned(), Level::detect() != Level::Portable);
    graph.unite();
    assert!(!graph.is_partitioned());
}

#[test]
fn equal_rows_rows_of_zero_and_queries_of_zero_are_found() {
    for value in [0.0, 1.0] {
        for count in [1, 3, 700] {
            let rows = Table { dimension: 5, values: vec![value; count * 5] };
            let graph = partitioned(Metric::Cosine, &rows, Width::Four);
            for query in [[0.0; 5], [1.0; 5], [-1.0; 5]] {
                let oracle = Oracle { rows: &rows, metric: Metric::Dot, query: &query };
                let hits = graph.search(&mut Searcher::default(), &wanted(&query), &oracle).unwrap();
                assert_eq!(hits.len(), count.min(10));
            }
        }
    }
}

#[test]
fn what_is_kept_out_is_not_found_and_what_lies_behind_it_is() {
    let rows = Table::clustered(4_000, 12, 5);
    let graph = partitioned(Metric::Cosine, &rows, Width::Eight);
    let mut searcher = Searcher::default();
    // Some of all, and all that is around the query.
    for (fraction, is_cluster) in [(0.9, false), (0.95, true)] {
        let mut found = 0;
        for i in 0..40 {
            let query = rows.row(i * 31);
            let admits = |row: u32| if is_cluster { row % 20 != i * 31 % 20 } else { row % 10 != i % 10 };
            let filter = Filter { admits: &admits, fraction, listed: None, through: Through::All };
            let oracle = Oracle { rows: &rows, metric: Metric::Cosine, query };
            let nearest = oracle.nearest(10, admits);
            let wanted = Wanted { filter: Some(filter), ..wanted(query) };
            let hits = graph.search(&mut searcher, &wanted, &oracle).unwrap();
            assert!(hits.iter().all(|hit| admits(hit.row)));
            let is_short = graph.propose(&mut searcher, &wanted).unwrap().is_short;
            let count = hits.iter().filter(|hit| hit.distance <= nearest[9].distance).count();
            found += if is_short { 10 } else { count };
            assert!(is_cluster || !is_short);
        }
        assert!(found >= 380, "{fraction}: {found}");
    }
}

#[test]
fn a_search_of_partitions_stops_when_told() {
    let rows = Table::clustered(3_000, 16, 5);
    let graph = partitioned(Metric::Cosine, &rows, Width::Four);
    let stopped = Wanted { stop: Some(&|| true), ..wanted(rows.row(3)) };
    assert_eq!(graph.propose(&mut Searcher::default(), &stopped), Err(Halted::Stopped));
}

#[test]
fn partitions_come_back_as_they_were_and_graphs_without_are_what_they_were() {
    let rows = Table::clustered(1_000, 21, 5);
    let mut graph = partitioned(Metric::Dot, &rows, Width::Four);
    let bytes = graph.to_bytes();
    let again = opened(bytes.clone()).unwrap();
    assert!(again.to_bytes() == bytes && again.is_partitioned() == graph.is_partitioned());
    assert_eq!(again.bytes(), graph.bytes());
    let search = |graph: &Graph| graph.propose(&mut Searcher::default(), &wanted(rows.row(1))).unwrap().rows.to_vec();
    assert_eq!(search(&again), search(&graph));
    let with = graph.bytes();
    graph.unite();
    assert!(graph.bytes() < with);
    let plain = graph.to_bytes();
    assert_eq!((bytes[7], plain[7]), (4, 2), "searchds of before read what has no partitions");
    assert!(plain[104..HEADER].iter().all(|byte| *byte == 0));
    assert!(!opened(plain).unwrap().is_partitioned());
}

#[test]
fn damage_of_partitions_is_noticed() {
    no_bit_is_lost_on(partitioned(Metric::Cosine, &Table::clustered(40, 6, 5), Width::Four).to_bytes());
    let rows = Table::clustered(700, 12, 5);
    damage_is_noticed_when_touched(&partitioned(Metric::Cosine, &rows, Width::Four), &rows);
}

/// The same with checksums that fit.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = |i: usize| u64::from_le_bytes(bytes[LENGTHS[i]..][..8].try_into().unwrap()) as usize;
    let end = (0..LENGTHS.len()).fold(HEADER, |end, i| (end + length(i)).next_multiple_of(64));
    bytes.truncate(end);
    put_checksums(&mut bytes);
    bytes
}

fn put_checksums(bytes: &mut Vec<u8>) {
    let table: Vec<u8> = sums(&bytes[HEADER..]).flat_map(u32::to_le_bytes).collect();
    bytes[96..100].copy_from_slice(&crc32fast::hash(&table).to_le_bytes());
    let checksum = crc32fast::hash(&bytes[12..HEADER]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes.extend(table);
}

#[test]
fn tables_that_make_no_sense_are_an_error() {
    let bytes = partitioned(Metric::Cosine, &Table::clustered(300, 6, 5), Width::Four).to_bytes();
    assert!(opened(sealed(bytes.clone())).is_ok());
    let length = |i: usize| u64::from_le_bytes(bytes[LENGTHS[i]..][..8].try_into().unwrap()) as usize;
    let tables = (0..6).fold(HEADER, |start, i| (start + length(i)).next_multiple_of(64));
    // Centres, the step of their grid, a point of a codebook, where the first list begins, and the second.
    let codebook = 3 * 2 * 16;
    for word in [0, 1, 2, 2 + codebook, 3 + codebook] {
        for value in [u32::MAX, f32::NAN.to_bits(), f32::INFINITY.to_bits()] {
            let mut bytes = bytes.clone();
            bytes[tables + word * 4..][..4].copy_from_slice(&value.to_le_bytes());
            assert_eq!(opened(sealed(bytes)).err(), Some(OpenError::Content("partitions")), "{word} {value:x}");
        }
    }
    // Another length of a section, the version of another layout, and axes beside partitions.
    for (at, value) in [(7, 2), (7, 3), (15, 1), (104, 9), (112, 9), (120, 9)] {
        let mut bytes = bytes.clone();
        bytes[at] = if at > HEADER / 2 { bytes[at].wrapping_add(value) } else { value };
        let checksum = crc32fast::hash(&bytes[12..HEADER]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        assert!(opened(bytes).is_err(), "{at}");
    }
}

proptest! {
    #[test]
    fn kernels_agree_on_looking_up(seed: u64, pairs in 1usize..30, limit: u16) {
        let mut random = Random::new(seed);
        let block: Vec<u8> = (0..pairs * 2 * PLANE).map(|_| random.next() as u8).collect();
        let mut tables = vec![0; block.len()];
        for table in tables.chunks_exact_mut(PLANE) {
            let (once, again) = table.split_at_mut(PLANE / 2);
            once.iter_mut().for_each(|entry| *entry = random.next() as u8 & MAX_ENTRY);
            again.copy_from_slice(once);
        }
        // Among the sums as often as not.
        let limit = if seed & 1 == 0 { limit } else { (pairs * usize::from(MAX_ENTRY)) as u16 };
        let all: Vec<(u64, [u16; BLOCK_ROWS])> = levels().map(|kernel| {
            let mut sums = [0; BLOCK_ROWS];
            (kernel.scan(&block, &tables, limit, &mut sums), sums)
        }).collect();
        prop_assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    }

    #[test]
    fn kernels_agree_on_points_side_by_side(seed: u64, blocks in 0usize..9, groups in 1usize..9) {
        let mut random = Random::new(seed);
        let query: Vec<i8> = (0..groups * GROUP).map(|_| (random.next() as i8).max(-127)).collect();
        let points: Vec<u8> = (0..blocks * SIDE * query.len()).map(|_| random.next() as u8 & MAX_ACROSS).collect();
        let all: Vec<Vec<i32>> = levels().map(|kernel| {
            let mut sums = vec![0; blocks * SIDE];
            kernel.across(&points, &query, &mut sums);
            sums
        }).collect();
        prop_assert!(all.iter().all(|sums| *sums == all[0]), "{all:?}");
    }
}
