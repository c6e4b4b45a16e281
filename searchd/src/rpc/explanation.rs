//! From what a search did to the message that tells it.

use std::time::Duration;

use nearfield_proto::v1;

use crate::index::plan::{Findable, Part, Step, Way};
use crate::search::explain::{Explanation, FilterUse};

pub(super) fn message(explanation: &Explanation) -> v1::Explanation {
    let phases = explanation.phases.iter().map(|(name, took)| v1::Phase { name: (*name).into(), us: us(*took) });
    let sum = |number: &dyn Fn(&Step) -> usize| explanation.trail.iter().map(number).sum::<usize>() as u64;
    v1::Explanation {
        plan: plan(&explanation.trail),
        points: explanation.points,
        filter: explanation.filter.as_ref().map(|used| filter(used, explanation.points)),
        segments: explanation.trail.iter().map(segment).collect(),
        distances: sum(&distances),
        candidates: sum(&|step| step.proposed),
        rescored: sum(&|step| step.compared),
        result_cache: if explanation.is_kept { "hit" } else { "miss" }.into(),
        attempts: explanation.attempts as u32,
        phases: phases.collect(),
    }
}

fn distances(step: &Step) -> usize {
    step.computed.unwrap_or(0) + step.compared
}

/// The ways taken, the most thorough last: `rows`, or `graph+scan`.
fn plan(trail: &[Step]) -> String {
    let taken = |way: &Way| trail.iter().any(|step| step.plan.way == *way);
    let ways: Vec<_> = Way::ALL.into_iter().skip(1).filter(taken).map(Way::name).collect();
    if ways.is_empty() { Way::Skip.name().to_owned() } else { ways.join("+") }
}

fn filter(used: &FilterUse, points: u64) -> v1::FilterExplanation {
    v1::FilterExplanation {
        admitted: used.admitted,
        selectivity: used.admitted as f64 / points.max(1) as f64,
        cache: if used.kept { "hit" } else { "miss" }.into(),
        index: used.index.name().into(),
        records_read: used.read,
    }
}

fn segment(step: &Step) -> v1::SegmentExplanation {
    v1::SegmentExplanation {
        segment: match step.part {
            Part::Head => "head".to_owned(),
            Part::Segment(number) => format!("segment-{number}"),
        },
        rows: step.rows as u64,
        live: step.live as u64,
        findable: step.findable.number().round() as u64,
        selectivity: (step.findable.number() / step.live.max(1) as f64).min(1.0),
        counted: matches!(step.findable, Findable::Counted(_)),
        way: step.plan.way.name().into(),
        why: why(step),
        distances: distances(step) as u64,
        candidates: step.proposed as u64,
        rescored: step.compared as u64,
        us: us(step.took),
    }
}

fn why(step: &Step) -> String {
    if step.plan.way == Way::Skip {
        return "no row can be found".to_owned();
    }
    let costs = step.plan.costs().map(|(way, cost)| format!("{} {:.0} µs", way.name(), cost / 1_000.0));
    let costs = costs.collect::<Vec<_>>().join(", ");
    let fell_back = if step.fell_back { "; too little was found, so all were compared" } else { "" };
    format!("expected {costs}{fell_back}")
}

fn us(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
