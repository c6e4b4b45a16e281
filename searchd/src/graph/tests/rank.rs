//! Rankings of what a filter admits, by codes alone.

use super::*;

#[test]
fn all_that_is_admitted_is_told_once_the_nearest_first_and_no_more_than_is_asked_for() {
    let rows = Table::clustered(3_000, 24, 12);
    let graph = Graph::build(Metric::Euclidean, &rows, Width::Eight, &PLAN).unwrap();
    let mut searcher = Searcher::default();
    let admits = |row: u32| row.is_multiple_of(3);
    let listed: Vec<u32> = (0..3_000).filter(|row| admits(*row)).collect();
    let query = rows.row(5);
    let mut order = None;
    for listed in [None, Some(&listed[..])] {
        let filter = Some(Filter { admits: &admits, fraction: 1.0 / 3.0, listed, through: Through::Codes });
        let proposed = Wanted { ef: 3_000, rescored: 3_000, filter, ..wanted(query) };
        let in_order = graph.propose(&mut searcher, &proposed).unwrap().rows.to_vec();
        assert_eq!(in_order.len(), 1_000);
        assert_eq!(*order.get_or_insert_with(|| in_order.clone()), in_order, "listed or not, they are the same");
        let (mut ranked, mut estimates, mut runs) = (Vec::new(), Vec::new(), Vec::new());
        let mut take = |rows: &[u32], estimated: &[f32]| {
            let farthest = estimates.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(estimated.iter().all(|estimate| *estimate >= farthest), "no run is nearer than the one before");
            runs.push(rows.len());
            ranked.extend_from_slice(rows);
            estimates.extend_from_slice(estimated);
            f32::INFINITY
        };
        let wanted = Wanted { ef: 7, ..proposed };
        assert!(graph.rank(&mut searcher, &wanted, &mut take).unwrap());
        assert!(runs[0] == 7 && runs.len() > 1, "{runs:?}");
        assert!(estimates[..7].is_sorted() && ranked[..7] == in_order[..7]);
        assert_eq!(ranked.iter().collect::<HashSet<_>>(), in_order.iter().collect::<HashSet<_>>());
        assert_eq!(ranked.len(), in_order.len(), "each once");
        estimates.sort_unstable_by(f32::total_cmp);
        let (limit, mut told) = (estimates[100], 0);
        let mut some = |rows: &[u32], _: &[f32]| {
            told += rows.len();
            limit
        };
        graph.rank(&mut searcher, &wanted, &mut some).unwrap();
        assert_eq!(told, estimates.iter().filter(|estimate| **estimate <= limit).count(), "up to where it is enough");
        let mut told = 0;
        let mut once = |_: &[u32], _: &[f32]| {
            told += 1;
            f32::NEG_INFINITY
        };
        graph.rank(&mut searcher, &wanted, &mut once).unwrap();
        assert_eq!(told, 1);
    }
    let all = Wanted { ef: 3_000, rescored: 3_000, filter: None, ..wanted(query) };
    let mut nearest = None;
    let mut take = |rows: &[u32], _: &[f32]| {
        nearest = nearest.or(Some((rows.len(), rows[0])));
        f32::INFINITY
    };
    graph.rank(&mut searcher, &all, &mut take).unwrap();
    assert_eq!(nearest, Some((3_000, 5)), "without a filter all are ranked, itself first");
}
