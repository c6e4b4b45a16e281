//! Building: rows go in batch after batch, in random order. All of a batch look for their neighbours in the graph as it
//! was before it, then the links back are added list by list (as ParlayANN does). So nothing is ever locked, and the
//! graph depends on the rows, the seed and the graphs that it grows from ([`grow`]) only, not on the number of threads or
//! their timing.

pub mod grow;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::BuildError;
use super::adjacency::{MAX_DEGREE, Neighbours, Room};
use super::codes::{Codes, PackedQuery};
use super::kernel::{Kernel, prefetch};
use super::memory::LINE;
use super::prune::Pruner;
use super::random::Random;
use super::walk::{Alone, Scratch, Terrain};
use grow::Source;

/// A batch is at most this part of the rows that are in already…
const BATCH_PART: usize = 32;
/// …and at most this many.
const BATCH_MAX: usize = 2_000;

/// Rows that come with neighbours keep fewer candidates while they look for more: this part of the usual.
const INHERITED_PART: usize = 2;

/// Rows that are worth a thread.
const LEAST_ITEMS: usize = 32;

/// Builds that are under way in this process.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// How to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Most neighbours of a row in the end.
    pub degree: usize,
    /// Candidates kept while looking for neighbours.
    pub ef: usize,
    /// Squared slack of pruning: see [`Pruner::prune`].
    pub slack: f32,
    /// Times that every row looks for its neighbours.
    pub rounds: usize,
    /// Threads of all builds that are under way in this process together; each has one at the least.
    pub threads: usize,
    pub seed: u64,
    /// Set when the graph is not needed any more.
    pub stop: Option<Arc<AtomicBool>>,
}

impl Default for Plan {
    /// Short lists where rows are clustered and long ones where they are not: the slack decides, the degree only bounds.
    fn default() -> Self {
        Self { degree: 64, ef: 160, slack: 1.1, rounds: 1, threads: 1, seed: 0x6e65_6172, stop: None }
    }
}

/// The graph while it grows: lists with some room, so that links back don't have to be pruned each time.
pub struct Draft {
    room: usize,
    lists: Vec<u32>,
    lens: Vec<u32>,
    /// Rows that never looked for their neighbours: they had them.
    pub inherited: usize,
}

impl Draft {
    fn new(room: usize, rows: usize) -> Self {
        Self { room, lists: vec![0; room * rows], lens: vec![0; rows], inherited: 0 }
    }

    pub fn list(&self, row: u32) -> &[u32] {
        &self.lists[row as usize * self.room..][..self.lens[row as usize] as usize]
    }

    pub fn set(&mut self, row: u32, list: &[u32]) {
        self.lists[row as usize * self.room..][..list.len()].copy_from_slice(list);
        self.lens[row as usize] = list.len() as u32;
    }

    pub fn rows(&self) -> usize {
        self.lens.len()
    }
}

impl Neighbours for Draft {
    #[inline(always)]
    fn neighbours<'a>(&'a self, row: u32, _room: &'a mut Room) -> &'a [u32] {
        self.list(row)
    }

    #[inline(always)]
    fn prefetch(&self, row: u32) {
        let start = row as usize * self.room * size_of::<u32>();
        for offset in (0..self.room * size_of::<u32>()).step_by(LINE) {
            prefetch(bytemuck::cast_slice(&self.lists), start + offset);
        }
    }
}

/// The row in the middle: the shortest one, as rows are centred.
pub fn middle(codes: &Codes) -> u32 {
    let by_length = |a: &u32, b: &u32| codes.squared_length(*a).total_cmp(&codes.squared_length(*b));
    (0..codes.len() as u32).min_by(by_length).unwrap_or(0)
}

/// The graph of `codes`, which are of eight bits and carry lengths, grown from what others have of it; `middle` is the row in
/// the middle.
///
/// # Errors
/// It was stopped.
pub fn build(
    codes: &Codes,
    kernel: Kernel,
    plan: &Plan,
    middle: u32,
    sources: &[Source<'_>],
) -> Result<Draft, BuildError> {
    let _under_way = UnderWay::begin();
    let room = (plan.degree + plan.degree / 2).min(MAX_DEGREE);
    let mut builder = Builder { codes, kernel, plan, entries: vec![middle], draft: Draft::new(room, codes.len()) };
    let inside = builder.inherit(sources);
    let order = builder.order(&inside);
    for round in 0..plan.rounds {
        let mut done = 0;
        while done < order.len() {
            // What comes is put in as if nothing were there: rows that are like each other, and like nothing else, have
            // to find each other.
            let known = if round == 0 { done } else { order.len() };
            let end = order.len().min(done + (known / BATCH_PART).clamp(1, BATCH_MAX));
            builder.insert(&order[done..end]);
            done = end;
            if plan.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(BuildError::Stopped);
            }
        }
    }
    builder.finish();
    builder.draft.inherited = codes.len() - order.len();
    Ok(builder.draft)
}

/// Counts a build.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Builder<'a> {
    codes: &'a Codes,
    kernel: Kernel,
    plan: &'a Plan,
    /// Where walks begin.
    entries: Vec<u32>,
    draft: Draft,
}

/// The buffers of one thread.
struct Worker {
    scratch: Scratch,
    pruner: Pruner,
    query: PackedQuery,
    candidates: Vec<(f32, u32)>,
    chosen: Vec<u32>,
}

/// New lists, one after the other.
#[derive(Default)]
struct Lists {
    rows: Vec<(u32, u32)>,
    neighbours: Vec<u32>,
}

impl Lists {
    fn push(&mut self, row: u32, list: &[u32]) {
        self.rows.push((row, list.len() as u32));
        self.neighbours.extend_from_slice(list);
    }

    fn for_each(&self, mut each: impl FnMut(u32, &[u32])) {
        let mut rest = &self.neighbours[..];
        for (row, len) in &self.rows {
            let (list, others) = rest.split_at(*len as usize);
            each(*row, list);
            rest = others;
        }
    }
}

impl Builder<'_> {
    /// The rows that are not inside, in the order in which they are put in. An entry that has to come first does.
    fn order(&self, inside: &[bool]) -> Vec<u32> {
        let mut order = Random::new(self.plan.seed ^ 0x0062_7569_6c64).permutation(self.codes.len());
        order.retain(|row| !inside[*row as usize]);
        if let Some(at) = order.iter().position(|row| *row == self.entries[0]) {
            order.swap(0, at);
        }
        order
    }

    fn insert(&mut self, batch: &[u32]) {
        let found = self.in_parallel(batch, |this, worker, row, lists| {
            this.look(worker, row);
            lists.push(row, &worker.chosen);
        });
        let mut links = vec![];
        for lists in &found {
            lists.for_each(|row, list| {
                self.draft.set(row, list);
                links.extend(list.iter().map(|neighbour| (*neighbour, row)));
            });
        }
        links.sort_unstable();
        let groups: Vec<&[(u32, u32)]> = links.chunk_by(|a, b| a.0 == b.0).collect();
        let linked = self.in_parallel(&groups, |this, worker, links, lists| {
            this.link(worker, links);
            lists.push(links[0].0, &worker.chosen);
        });
        for lists in &linked {
            lists.for_each(|row, list| self.draft.set(row, list));
        }
    }

    /// Chooses the neighbours of a row from what a walk towards it meets and those that it has.
    fn look(&self, worker: &mut Worker, row: u32) {
        let Worker { scratch, query, candidates, .. } = worker;
        self.codes.pack_row(row, query);
        let terrain =
            Terrain { codes: self.codes, adjacency: &self.draft, kernel: self.kernel, entries: &self.entries };
        let ef = if self.draft.list(row).is_empty() { self.plan.ef } else { self.plan.ef / INHERITED_PART };
        terrain.walk(query, ef, scratch, &mut Alone).expect("nobody stops it");
        let length = self.codes.squared_length(row);
        candidates.clear();
        candidates.extend(scratch.pool.candidates().iter().map(|c| (c.distance() + length, c.row())));
        let own = self.draft.list(row);
        self.measure(worker, row, own);
        self.choose(worker, row, self.plan.degree);
    }

    /// Adds links to the list of a row, pruned when it overflows.
    fn link(&self, worker: &mut Worker, links: &[(u32, u32)]) {
        let row = links[0].0;
        let own = self.draft.list(row);
        worker.chosen.clear();
        worker.chosen.extend_from_slice(own);
        worker.chosen.extend(links.iter().map(|link| link.1).filter(|from| !own.contains(from)));
        if worker.chosen.len() > self.draft.room {
            self.shorten(worker, row);
        }
    }

    /// Prunes what is chosen for a row.
    fn shorten(&self, worker: &mut Worker, row: u32) {
        let all = std::mem::take(&mut worker.chosen);
        self.codes.pack_row(row, &mut worker.query);
        worker.candidates.clear();
        self.measure(worker, row, &all);
        worker.chosen = all;
        self.choose(worker, row, self.plan.degree);
    }

    fn measure(&self, worker: &mut Worker, row: u32, rows: &[u32]) {
        let (mut sums, mut distances) = ([0; MAX_DEGREE], [0.0; MAX_DEGREE]);
        let length = self.codes.squared_length(row);
        for chunk in rows.chunks(MAX_DEGREE) {
            self.codes.distances(self.kernel, &worker.query, chunk, &mut sums, &mut distances);
            worker.candidates.extend(distances.iter().zip(chunk).map(|(distance, row)| (distance + length, *row)));
        }
    }

    fn choose(&self, worker: &mut Worker, row: u32, degree: usize) {
        worker.candidates.retain(|(_, candidate)| *candidate != row);
        worker.candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let Worker { pruner, candidates, chosen, .. } = worker;
        pruner.prune(self.codes, self.kernel, candidates, degree, self.plan.slack, chosen);
    }

    /// Brings every list down to the final degree.
    fn finish(&mut self) {
        let rows: Vec<u32> = (0..self.codes.len() as u32).collect();
        let shortened = self.in_parallel(&rows, |this, worker, row, lists| {
            let list = this.draft.list(row);
            if list.len() > this.plan.degree {
                worker.chosen.clear();
                worker.chosen.extend_from_slice(list);
                this.shorten(worker, row);
                lists.push(row, &worker.chosen);
            }
        });
        for lists in &shortened {
            lists.for_each(|row, list| self.draft.set(row, list));
        }
    }

    /// Runs `job` for every item. The order of the results is that of the items.
    fn in_parallel<T: Copy + Sync>(
        &self,
        items: &[T],
        job: impl Fn(&Self, &mut Worker, T, &mut Lists) + Sync,
    ) -> Vec<Lists> {
        let run = |items: &[T]| {
            let mut lists = Lists::default();
            let mut worker = Worker {
                scratch: Scratch::default(),
                pruner: Pruner::new(self.codes),
                query: self.codes.empty_query(),
                candidates: vec![],
                chosen: vec![],
            };
            items.iter().for_each(|item| job(self, &mut worker, *item, &mut lists));
            lists
        };
        // What others leave: a merge has all of them until a piece of the head is built beside it.
        let share = self.plan.threads / UNDER_WAY.load(Ordering::Relaxed).max(1);
        let threads = share.clamp(1, items.len().div_ceil(LEAST_ITEMS).max(1));
        if threads == 1 {
            return vec![run(items)];
        }
        std::thread::scope(|scope| {
            let parts: Vec<_> =
                items.chunks(items.len().div_ceil(threads)).map(|part| scope.spawn(|| run(part))).collect();
            parts.into_iter().map(|part| part.join().expect("a worker doesn't panic")).collect()
        })
    }
}
