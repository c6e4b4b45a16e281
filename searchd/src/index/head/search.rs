//! How searches go through the head: row by row, or by the codes of the chunks that are packed.
//!
//! By codes the most promising rows of all packed chunks are found together, then compared best first. How far estimates
//! are off is learned from these comparisons, so it shows how many have to be. Who asks for an exact answer has every row
//! compared.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::super::batch::Search;
use super::super::estimate::Estimates;
use super::super::newcomers::Reach;
use super::super::packed;
use super::super::parts::Parts;
use super::super::plan::{Findable, Part, Plan, Proposing, Row, Step, TURN, Way, compare_code};
use super::super::{Index, Wanted};
use super::room::ROOM;
use super::{CHUNK_ROWS, Chunk, Coded};
use crate::engine::settings::Effort;
use crate::graph::flat::{Packer, Ranking};
use crate::priority::{self, Priority};
use crate::search::stop::{Stop, Stopped};

/// Rows kept for each hit, and at the least, where codes rank.
const KEPT_PER_HIT: usize = 8;
const LEAST_KEPT: usize = 128;
/// Codes are worth their while where they have this many times the rows to rank that are kept.
const WORTH: usize = 8;

/// Of the thread that packs: searches compare every row of a chunk until it is done.
const PRIORITY: Priority = Priority::Nice(5);

/// Who packs chunks, for all indexes; none where the system has no thread left, and nothing is packed.
static PACKING: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    let lower = |_| priority::lower(PRIORITY);
    let pool = ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "packing".to_owned()).start_handler(lower);
    pool.build().inspect_err(|error| tracing::error!(%error, "nothing packs what is not indexed yet")).ok()
});

/// Nanoseconds to centre the query for a chunk.
const CENTRE: f64 = 400.0;

/// A search by codes under way.
struct Ranked {
    ranking: Ranking,
    proposed: usize,
    /// Rows were so many and so much alike that not all that should have been compared were kept.
    fell_back: bool,
}

/// The codes of each chunk at one moment, where it has some.
type Packed<'p> = Vec<Option<&'p Coded>>;

impl Index {
    /// Packs a chunk that has become full, beside everything else, and makes room for the next.
    pub(in crate::index) fn pack(&self, chunk: Arc<Chunk>) {
        let dimension = self.settings.dimension as usize;
        let packer =
            self.packer.get_or_init(|| Packer::new(packed::metric(self.settings.metric), dimension).map(Arc::new));
        if let (Some(packer), Some(packing)) = (packer.clone(), &*PACKING) {
            packing.spawn(move || {
                ROOM.prepare(CHUNK_ROWS * dimension);
                chunk.pack(packer);
            });
        }
    }
}

impl Parts {
    /// Rows that wait to be sealed, dead ones included.
    pub(in crate::index) fn waiting(&self) -> usize {
        self.head.iter().map(|chunk| chunk.len()).sum()
    }

    /// The cheapest way through the head for a search that may find so many of its rows.
    pub(in crate::index) fn head_plan(&self, wanted: &Wanted<'_>, findable: Findable) -> Plan {
        let packed = self.head.iter().filter(|chunk| chunk.codes().is_some()).count();
        self.plan_with(packed, wanted, findable)
    }

    fn plan_with(&self, packed: usize, wanted: &Wanted<'_>, findable: Findable) -> Plan {
        let (rows, dimension) = (self.waiting(), wanted.scorer.query().len());
        let row = Row::of_floats(dimension);
        let by_row = Plan::cheapest(rows, findable, row, Proposing::default());
        let kept = kept(wanted);
        if wanted.exact || packed * CHUNK_ROWS < kept * WORTH {
            return by_row;
        }
        let share = (packed * CHUNK_ROWS) as f64 / rows.max(1) as f64;
        let codes = TURN
            + packed as f64 * CENTRE
            + findable.number() * share * compare_code(dimension)
            + kept as f64 * row.compare_at_random()
            + (1.0 - share) * by_row.cost();
        Plan::cheapest(rows, findable, row, Proposing { codes: Some(codes), ..Proposing::default() })
    }

    /// Compares what waits to be sealed.
    pub(in crate::index) fn search_head(&self, searches: &mut [&mut Search<'_>], stop: &Stop) -> Result<(), Stopped> {
        let started = Instant::now();
        let rows = self.waiting();
        let live = rows - self.head.iter().map(|chunk| chunk.dead.len()).sum::<usize>().min(rows);
        let packed = self.packed(searches);
        let chunks = packed.iter().flatten().count();
        let mut plans: Vec<Plan> = searches.iter().map(|search| self.plan_search(chunks, live, search)).collect();
        let ranked = self.rank(&packed, &plans, searches, stop)?;
        for (at, chunk) in self.head.iter().enumerate() {
            stop.check()?;
            let is_left =
                |ranked: &Option<Ranked>| packed[at].is_none() || ranked.as_ref().is_none_or(|ranked| ranked.fell_back);
            let left = searches.iter_mut().zip(&ranked).filter(|(_, ranked)| is_left(ranked));
            let mut left: Vec<&mut Search<'_>> = left.map(|(search, _)| &mut **search).collect();
            if !left.is_empty() {
                chunk.search(&mut left, stop)?;
            }
        }
        // What is done together is each one's in equal parts.
        let took = started.elapsed() / searches.len().max(1) as u32;
        for ((search, ranked), plan) in searches.iter_mut().zip(ranked).zip(&mut plans) {
            let computed = ranked.as_ref().map(|ranked| ranked.ranking.ranked());
            let proposed = ranked.as_ref().map_or(0, |ranked| ranked.proposed);
            let fell_back = ranked.as_ref().is_some_and(|ranked| ranked.fell_back);
            let compared = search.compared;
            plan.way = match &search.listed {
                _ if compared == 0 => Way::Skip,
                _ if ranked.is_some() => Way::Codes,
                Some(_) => Way::Rows,
                None => Way::Scan,
            };
            // All that could be found was looked at.
            let findable = Findable::Counted(computed.unwrap_or(0).max(compared));
            let (part, plan) = (Part::Head, *plan);
            search.seen += live;
            search.trail.push(Step { part, rows, live, findable, plan, fell_back, computed, proposed, compared, took });
        }
        Ok(())
    }

    fn plan_search(&self, packed: usize, live: usize, search: &Search<'_>) -> Plan {
        let findable = match &search.listed {
            Some(listed) => Findable::Counted(self.head.iter().map(|chunk| listed.of(chunk.part).len()).sum()),
            None => Findable::Estimated(live as f64),
        };
        self.plan_with(packed, search.wanted, findable)
    }

    /// Those whose rows are all within the reach of all who search for more than what is listed.
    fn packed(&self, searches: &[&mut Search<'_>]) -> Packed<'_> {
        let reaches: Vec<Reach> =
            searches.iter().filter(|search| search.listed.is_none()).map(|search| search.reach).collect();
        let is_within = |chunk: &Chunk| reaches.iter().all(|reach| reach.rows_of(chunk) == CHUNK_ROWS);
        self.head.iter().map(|chunk| chunk.codes().filter(|_| is_within(chunk))).collect()
    }

    /// Goes through the packed chunks for the searches that are planned so, and compares the best that were found.
    fn rank(
        &self,
        packed: &Packed<'_>,
        plans: &[Plan],
        searches: &mut [&mut Search<'_>],
        stop: &Stop,
    ) -> Result<Vec<Option<Ranked>>, Stopped> {
        let begin = |(plan, search): (&Plan, &&mut Search<'_>)| {
            let packer =
                packed.iter().flatten().next().map(|codes| &codes.packer).filter(|_| plan.way == Way::Codes)?;
            let ranking = packer.ranking(search.wanted.scorer.query(), kept(search.wanted), self.waiting());
            Some(Ranked { ranking, proposed: 0, fell_back: false })
        };
        let mut ranked: Vec<Option<Ranked>> = plans.iter().zip(searches.iter()).map(begin).collect();
        for (at, codes) in packed.iter().enumerate() {
            let Some(codes) = codes else { continue };
            stop.check()?;
            for (search, ranked) in searches.iter().zip(&mut ranked) {
                if let Some(Ranked { ranking, .. }) = ranked {
                    self.head[at].rank(codes, (at * CHUNK_ROWS) as u32, search, ranking);
                }
            }
        }
        for (search, ranked) in searches.iter_mut().zip(&mut ranked) {
            if let Some(ranked) = ranked
                && !self.rescore(ranked, search)
            {
                ranked.fell_back = true;
                search.nearest.clear();
            }
        }
        Ok(ranked)
    }

    /// Compares what was ranked until what is left is most probably no nearer; false when nearer rows may be among those that are
    /// not known any more.
    fn rescore(&self, Ranked { ranking, proposed, .. }: &mut Ranked, search: &mut Search<'_>) -> bool {
        let mut estimates = Estimates::new(search.wanted.scorer, ranking.grain());
        ranking.tell(&mut |numbers, estimated| {
            *proposed += numbers.len();
            for (number, estimate) in numbers.iter().zip(estimated) {
                if *estimate > estimates.limit(search.nearest.threshold()) {
                    continue;
                }
                let (at, row) = (*number as usize / CHUNK_ROWS, number % CHUNK_ROWS as u32);
                let hit = self.head[at].hit(row, search.wanted);
                estimates.learn(*estimate, hit.rank);
                if hit.rank >= search.nearest.threshold() {
                    search.nearest.push(hit);
                }
                search.compared += 1;
            }
            estimates.limit(search.nearest.threshold())
        })
    }
}

/// How many rows a search by codes has in order at first.
fn kept(wanted: &Wanted<'_>) -> usize {
    let asked = match wanted.effort {
        Effort::Candidates(candidates) => candidates as usize,
        Effort::Recall(_) => 0,
    };
    (KEPT_PER_HIT * wanted.k).max(LEAST_KEPT).max(asked)
}
