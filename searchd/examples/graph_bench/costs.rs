//! What the planner has to know: nanoseconds of CPU time to compare a row, in order and at random, and to walk.

use anyhow::{Context, Result};
use nearfield_searchd::engine::settings::Effort;
use nearfield_searchd::graph::Rows;
use nearfield_searchd::index::admitted::Admitted;
use nearfield_searchd::index::plan::{Step, Way};
use nearfield_searchd::index::score::Scorer;
use nearfield_searchd::index::{Index, Wanted};
use nearfield_searchd::search::stop::Stop;

use crate::data::Data;
use crate::{K, RUNS, cpu, segments};

/// Searches of each measurement.
const QUERIES: usize = 96;
/// One row of so many is admitted.
const EVERY: [usize; 8] = [1, 2, 5, 10, 20, 50, 100, 1_000];
const EFS: [u32; 3] = [16, 64, 256];

pub(crate) fn measure(data: &Data) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let index = segments::sealed(data, directory.path())?;
    for every in EVERY {
        let admitted: Admitted = (0..data.len() as u32).step_by(every).collect();
        let admitted = (every > 1).then_some(&admitted);
        report(&index, data, every, "exact", Effort::Candidates(64), true, admitted)?;
        for ef in EFS {
            report(&index, data, every, &format!("ef {ef}"), Effort::Candidates(ef), false, admitted)?;
        }
    }
    Ok(())
}

/// Prints the time that a search took, and what the planner took it to cost.
fn report(
    index: &Index,
    data: &Data,
    every: usize,
    name: &str,
    effort: Effort,
    exact: bool,
    admitted: Option<&Admitted>,
) -> Result<()> {
    let queries = data.queries.chunks_exact(data.dimension).cycle().take(QUERIES);
    let scorers: Vec<Scorer> = queries.map(|query| index.scorer(query)).collect();
    let mut best = f64::INFINITY;
    let mut step = None;
    for _ in 0..RUNS {
        let start = cpu(libc::CLOCK_THREAD_CPUTIME_ID);
        for scorer in &scorers {
            let wanted = Wanted { scorer, k: K, effort, exact, admitted, except: None };
            let (_, trail) = index.search(&wanted, &|a, b| a.cmp(&b), &Stop::default())??;
            step = trail.into_iter().last();
        }
        best = best.min((cpu(libc::CLOCK_THREAD_CPUTIME_ID) - start).as_secs_f64() / QUERIES as f64 * 1e9);
    }
    let Step { plan, compared, computed, .. } = step.context("a segment")?;
    let expected: Vec<_> = plan.costs().map(|(way, cost)| format!("{} {:.0}", way.name(), cost / 1e3)).collect();
    let by_row = match plan.way {
        Way::Codes | Way::TwoHop | Way::Graph => String::new(),
        _ => format!(", {:.0} ns a row", best / compared.max(1) as f64),
    };
    println!(
        "  one in {every:4}, {name:6}: {:5}, {:7.1} µs{by_row}; {compared} compared, {} computed; \
         expected µs: {}",
        plan.way.name(),
        best / 1e3,
        computed.unwrap_or(0),
        expected.join(", "),
    );
    Ok(())
}
