//! Rankings of what a filter admits, by codes alone.

use super::*;

#[test]
fn all_that_is_admitted_is_told_once_in_order_and_no_more_than_is_asked_for() {
    let rows = Table::clustered(3_000, 24, 12);
    let graph = Graph::build(Metric::Euclidean, &rows, Width::Eight, &PLAN).unwrap();
    let mut searcher = Searcher::default();
    let admits = |row: u32| row.is_multiple_of(3);
    let listed: Vec<u32> = (0..3_000).filter(|row| admits(*row)).collect();
    let query = rows.row(5);
    for (listed, kept) in [(None, 1_000), (Some(&listed[..]), 5_000), (Some(&listed[..]), 100)] {
        let filter = Some(Filter { admits: &admits, fraction: 1.0 / 3.0, listed, through: Through::Codes });
        let wanted = Wanted { ef: 7, rescored: kept, filter, ..wanted(query) };
        let (mut ranked, mut estimates, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        let mut take = |rows: &[u32], estimated: &[f32]| {
            runs.push(rows.len());
            ranked.extend_from_slice(rows);
            estimates.extend_from_slice(estimated);
            true
        };
        graph.rank(&mut searcher, &wanted, &mut take).unwrap();
        assert!(runs[0] == 7 && runs.len() > 1, "{runs:?}");
        assert!(estimates.is_sorted());
        assert_eq!(ranked.len(), kept.min(1_000));
        assert!(ranked.iter().all(|row| admits(*row)));
        assert_eq!(ranked.iter().collect::<HashSet<_>>().len(), ranked.len(), "each once");
        let proposed = Wanted { ef: kept, rescored: kept, ..wanted };
        assert_eq!(graph.propose(&mut searcher, &proposed).unwrap().rows, ranked);
        let mut told = 0;
        let mut once = |_: &[u32], _: &[f32]| {
            told += 1;
            false
        };
        graph.rank(&mut searcher, &wanted, &mut once).unwrap();
        assert_eq!(told, 1, "until it is enough");
    }
    let all = Wanted { ef: 3_000, rescored: 3_000, filter: None, ..wanted(query) };
    let mut nearest = None;
    let mut take = |rows: &[u32], _: &[f32]| {
        nearest = nearest.or(Some((rows.len(), rows[0])));
        true
    };
    graph.rank(&mut searcher, &all, &mut take).unwrap();
    assert_eq!(nearest, Some((3_000, 5)), "without a filter all are ranked, itself first");
}
