//! Where the slowest hundredth of searches spent their time, by what searchd says of each.

use std::collections::BTreeMap;
use std::time::Duration;

use nearfield_proto::v1;

use crate::table::Table;

/// Of so many searches the slowest one is looked at.
const PART: usize = 100;
/// What searchd does not count: the wire, its reactor, and the load generator's own.
const ELSEWHERE: &str = "elsewhere";

/// The searches of one load, by how long each took.
#[derive(Default)]
pub(super) struct Slowest {
    searches: Vec<(Duration, Vec<v1::Phase>)>,
}

impl Slowest {
    pub(super) fn add(&mut self, took: Duration, explanation: Option<v1::Explanation>) {
        self.searches.extend(explanation.map(|explanation| (took, explanation.phases)));
    }

    pub(super) fn take(&mut self, others: Self) {
        self.searches.extend(others.searches);
    }

    /// The mean of each phase over the slowest, in milliseconds.
    pub(super) fn report(&self, load: &str, table: &mut Table) {
        let mut searches: Vec<_> = self.searches.iter().collect();
        searches.sort_unstable_by_key(|(took, _)| std::cmp::Reverse(*took));
        searches.truncate(searches.len().div_ceil(PART));
        let mut phases: BTreeMap<&str, f64> = BTreeMap::new();
        for (took, explained) in &searches {
            let known: f64 = explained.iter().map(|phase| phase.us as f64).sum();
            *phases.entry(ELSEWHERE).or_default() += (took.as_micros() as f64 - known).max(0.0);
            for phase in explained {
                *phases.entry(&phase.name).or_default() += phase.us as f64;
            }
        }
        let count = searches.len().max(1) as f64;
        let text = phases.iter().map(|(name, micros)| format!("{name} {:.1}", micros / count / 1e3));
        table.row([load.to_owned(), text.collect::<Vec<_>>().join(", ")]);
    }
}
