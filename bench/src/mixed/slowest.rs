//! Where the slowest hundredth of searches spent their time, by what searchd says of each.

use std::collections::BTreeMap;
use std::time::Duration;

use nearfield_proto::v1;

use crate::table::Table;

/// Of so many searches the slowest one is looked at.
const PART: usize = 100;
/// What searchd does not count: the wire, its reactor, and the load generator's own.
const ELSEWHERE: &str = "elsewhere";
/// As searchd calls what is in no graph yet.
const HEAD: &str = "head";

/// The searches of one load, by how long each took.
#[derive(Default)]
pub(super) struct Slowest {
    searches: Vec<(Duration, Explained)>,
}

/// What is kept of an explanation.
struct Explained {
    phases: Vec<v1::Phase>,
    head: Option<v1::SegmentExplanation>,
    segments: usize,
    segments_us: u64,
}

impl From<v1::Explanation> for Explained {
    fn from(explanation: v1::Explanation) -> Self {
        let (heads, segments): (Vec<_>, Vec<_>) =
            explanation.segments.into_iter().partition(|part| part.segment == HEAD);
        Self {
            phases: explanation.phases,
            head: heads.into_iter().next(),
            segments: segments.len(),
            segments_us: segments.iter().map(|part| part.us).sum(),
        }
    }
}

impl Slowest {
    pub(super) fn add(&mut self, took: Duration, explanation: Option<v1::Explanation>) {
        self.searches.extend(explanation.map(|explanation| (took, explanation.into())));
    }

    pub(super) fn take(&mut self, others: Self) {
        self.searches.extend(others.searches);
    }

    /// The means over the slowest: of each phase, in milliseconds, and of what they went through.
    pub(super) fn report(&self, load: &str, table: &mut Table) {
        let mut searches: Vec<_> = self.searches.iter().collect();
        searches.sort_unstable_by_key(|(took, _)| std::cmp::Reverse(*took));
        searches.truncate(searches.len().div_ceil(PART));
        let mut phases: BTreeMap<&str, f64> = BTreeMap::new();
        for (took, explained) in &searches {
            let known: f64 = explained.phases.iter().map(|phase| phase.us as f64).sum();
            *phases.entry(ELSEWHERE).or_default() += (took.as_micros() as f64 - known).max(0.0);
            for phase in &explained.phases {
                *phases.entry(&phase.name).or_default() += phase.us as f64;
            }
        }
        let count = searches.len().max(1) as f64;
        let text = phases.iter().map(|(name, micros)| format!("{name} {:.1}", micros / count / 1e3));
        let mean =
            |of: &dyn Fn(&Explained) -> f64| searches.iter().map(|(_, explained)| of(explained)).sum::<f64>() / count;
        let head = |of: &dyn Fn(&v1::SegmentExplanation) -> u64| {
            mean(&|explained| explained.head.as_ref().map_or(0.0, |head| of(head) as f64))
        };
        let parts = format!(
            "{:.1} for the {:.0} rows of the head, of which {:.0} were compared; {:.1} for {:.1} segments",
            head(&|head| head.us) / 1e3,
            head(&|head| head.rows),
            head(&|head| head.rescored),
            mean(&|explained| explained.segments_us as f64) / 1e3,
            mean(&|explained| explained.segments as f64),
        );
        table.row([load.to_owned(), text.collect::<Vec<_>>().join(", "), parts]);
    }
}
