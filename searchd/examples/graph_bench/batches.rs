//! Searches one by one beside the same searches in batches, on one thread: the CPU time of each.

use anyhow::{Context, Result, ensure};
use nearfield_searchd::engine::settings::Effort;
use nearfield_searchd::graph::Rows;
use nearfield_searchd::index::admitted::Admitted;
use nearfield_searchd::index::score::Scorer;
use nearfield_searchd::index::{Index, Wanted};
use nearfield_searchd::search::stop::Stop;

use crate::data::Data;
use crate::{K, RUNS, cpu, segments};

/// Searches that a batch is measured with; the first is a search alone.
const SIZES: [usize; 5] = [1, 2, 4, 8, 16];
/// Searches of each measurement.
const QUERIES: usize = 96;
/// One row of so many is admitted.
const EVERY: [usize; 3] = [10, 100, 1_000];

pub(crate) fn measure(data: &Data) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let index = segments::sealed(data, directory.path())?;
    println!("  CPU µs a search: {}", SIZES.map(|size| format!("{:>8}", format!("× {size}"))).join(" "));
    report(&index, data, "plain", false, None)?;
    report(&index, data, "exact", true, None)?;
    for every in EVERY {
        let admitted: Admitted = (0..data.len() as u32).step_by(every).collect();
        report(&index, data, &format!("one in {every}"), false, Some(&admitted))?;
        report(&index, data, &format!("exact, one in {every}"), true, Some(&admitted))?;
    }
    Ok(())
}

fn report(index: &Index, data: &Data, name: &str, exact: bool, admitted: Option<&Admitted>) -> Result<()> {
    let effort = Effort::Candidates(64);
    let queries = data.queries.chunks_exact(data.dimension).cycle().take(QUERIES);
    let scorers: Vec<Scorer> = queries.map(|query| index.scorer(query)).collect();
    let wanted: Vec<Wanted<'_>> =
        scorers.iter().map(|scorer| Wanted { scorer, k: K, effort, exact, admitted, except: None }).collect();
    let mut alone = None;
    let mut cells = Vec::new();
    for size in SIZES {
        let mut best = f64::INFINITY;
        for _ in 0..RUNS {
            let mut found = Vec::with_capacity(QUERIES);
            let start = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
            for batch in wanted.chunks(size) {
                for answer in index.search_all(batch, &|a, b| a.cmp(&b), &Stop::default())? {
                    found.push(answer.context("no damage")?.0);
                }
            }
            best = best.min((cpu(libc::CLOCK_THREAD_CPUTIME_ID) - start).as_secs_f64() / QUERIES as f64 * 1e6);
            ensure!(*alone.get_or_insert_with(|| found.clone()) == found, "a batch finds what its searches find alone");
        }
        cells.push(format!("{best:8.1}"));
    }
    println!("  {name:>22} {}", cells.join(" "));
    Ok(())
}
