//! Recall as a promise: measured when someone asks, and watched in the background for the metric.
//!
//! The watch takes the questions that users asked last and stored points in turn, spends a fiftieth of one core on them at most,
//! and keeps the last answers of each collection. One that nobody writes to and nobody asks is left alone. What users ask also
//! tells how many candidates a recall takes: see [`Index::learn`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::engine::Address;
use crate::index::recall::{Found, Question};
use crate::index::{Index, graph};
use crate::priority::{Priority, lowered};
use crate::search::stop::{Stop, Stopped};
use crate::store::Store;

/// Questions of one measurement unless it says otherwise, and at most.
pub const SAMPLES: usize = 50;
pub const MAX_SAMPLES: usize = 500;
/// Collections that are watched: each is a series of the metric.
const MAX_WATCHED: usize = 100;
/// Of what takes long.
const PRIORITY: Priority = Priority::LeftOver;
/// Questions of one collection in a round of the watch.
const ROUND: usize = 10;
/// Answers of one collection that the metric is the mean of.
const KEPT: usize = 100;
/// The watch rests so many times as long as it works.
const REST: u32 = 50;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub recall_at_10: f64,
    /// Questions that were asked: fewer than were wanted when time ran out.
    pub samples: usize,
    /// Candidates that searches of the collection keep; 0 where all rows are compared.
    pub ef: usize,
    pub took: Duration,
}

/// Measures a collection's recall with its own settings. Time that runs out after the first question ends it with what there
/// is. Blocks; for the search pool.
pub fn measure(index: &Index, samples: usize, stop: &Stop) -> Result<Measured, Stopped> {
    let started = Instant::now();
    let effort = index.settings.effort;
    let mut all = Vec::new();
    for number in 0..samples {
        let Some(question) = index.question(number) else { break };
        match index.try_question(&question, effort, stop) {
            Ok(found) => all.extend(found),
            Err(Stopped::Deadline) if !all.is_empty() => break,
            Err(stopped) => return Err(stopped),
        }
    }
    let (recall_at_10, ef) = (share(&all), index.candidates(effort));
    Ok(Measured { recall_at_10, samples: all.len(), ef, took: started.elapsed() })
}

/// 1 where there was nothing to be found.
fn share<'a>(all: impl IntoIterator<Item = &'a Found>) -> f64 {
    let (hits, nearest) =
        all.into_iter().fold((0, 0), |(hits, nearest), found| (hits + found.hits, nearest + found.nearest));
    if nearest == 0 { 1.0 } else { hits as f64 / nearest as f64 }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    tenant: String,
    collection: String,
}

/// The watch on all collections.
pub struct Watch {
    store: Arc<Store>,
    interval: Duration,
    gauges: Family<Labels, Gauge<f64, AtomicU64>>,
    /// By incarnation.
    known: BTreeMap<u64, Known>,
    tried: Tried,
    /// Ends a long step.
    stop: Stop,
}

/// A collection that is watched.
struct Watched {
    address: Address,
    incarnation: u64,
    index: Arc<Index>,
    /// What it is to be asked now.
    questions: Vec<Question>,
}

/// Graphs that were tried with users' questions.
#[derive(Default)]
struct Tried(Counter);

#[derive(Default)]
struct Known {
    answers: VecDeque<Found>,
    /// What there was when it was last looked at: the collection's generation, questions asked, segments.
    seen: (u64, u64, usize),
}

/// The running watch.
pub struct Watching {
    resting: mpsc::Sender<()>,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Watching {
    /// Ends the thread; blocks until a question under way is answered.
    pub fn finish(self) {
        self.stop.cancelled.cancel();
        drop(self.resting);
        // A panic was reported by the thread itself.
        let _ = self.thread.join();
    }
}

impl Watch {
    pub fn new(store: Arc<Store>, interval: Duration, registry: &mut Registry) -> Self {
        let gauges = Family::default();
        let help = "Recall of the ten nearest, by the last questions asked again exactly";
        registry.register("nearfield_recall_at_10", help, gauges.clone());
        let tried = Tried::default();
        let help = "Graphs that were tried with what users asked last, to know how many candidates a recall takes";
        registry.register("nearfield_searchd_graphs_tried", help, tried.0.clone());
        Self { store, interval, gauges, known: BTreeMap::new(), tried, stop: Stop::default() }
    }

    pub fn start(mut self) -> std::io::Result<Watching> {
        let (resting, mut stopped) = mpsc::channel::<()>();
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new().name("recall".into()).spawn(move || {
            while stopped.recv_timeout(self.interval) == Err(RecvTimeoutError::Timeout) {
                self.round(&mut stopped);
            }
        })?;
        Ok(Watching { resting, stop, thread })
    }

    fn round(&mut self, stopped: &mut mpsc::Receiver<()>) {
        // Not put off while it holds the state, for which a writer would wait, and searches for the writer.
        let collections: Vec<(Address, u64, u64)> = {
            let state = self.store.read();
            let live = state.holders().filter_map(|(address, _)| Some((address, state.collection(address)?)));
            live.map(|(address, found)| (address.clone(), found.incarnation, found.generation)).collect()
        };
        let with_graphs = collections.into_iter().filter_map(|(address, incarnation, generation)| {
            let index =
                self.store.index(incarnation).filter(|index| !index.segments().is_empty() && index.is_there())?;
            // Nor while it takes what users and writers look at as well.
            let questions = self.known.entry(incarnation).or_default().questions(generation, &index);
            Some(Watched { address, incarnation, index, questions })
        });
        let watched: Vec<Watched> = with_graphs.take(MAX_WATCHED).collect();
        self.known.retain(|known, _| watched.iter().any(|watched| watched.incarnation == *known));
        if self.look(&watched, stopped) {
            self.show(watched);
        }
    }

    /// Asks what is new. False when the watch is to end.
    fn look(&mut self, watched: &[Watched], stopped: &mut mpsc::Receiver<()>) -> bool {
        for Watched { incarnation, index, questions, .. } in watched {
            if questions.is_empty() {
                continue;
            }
            let known = self.known.entry(*incarnation).or_default();
            if !self.tried.learn(index, &self.stop, stopped) || !known.look(index, questions, stopped) {
                return false;
            }
        }
        true
    }

    fn show(&self, watched: Vec<Watched>) {
        self.gauges.clear();
        for Watched { address, incarnation, .. } in watched {
            let Some(known) = self.known.get(&incarnation) else { continue };
            let labels = Labels { tenant: address.tenant.into(), collection: address.name.into() };
            self.gauges.get_or_create(&labels).set(share(&known.answers));
        }
    }
}

impl Tried {
    /// Lets a segment learn from what users ask. False when the watch is to end.
    fn learn(&self, index: &Index, stop: &Stop, stopped: &mpsc::Receiver<()>) -> bool {
        let started = Instant::now();
        match lowered(PRIORITY, || index.learn(stop)) {
            Ok(false) => return true,
            Ok(true) => {
                self.0.inc();
                let (ef, took) = (index.candidates(index.settings.effort), started.elapsed().as_secs_f64());
                tracing::info!(ef, took, "a graph was tried with questions of users");
            }
            Err(graph::Error::Stopped(_)) => return false,
            // Searches notice it as well, and it is mended.
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a graph could not be tried with questions of users");
            }
        }
        stopped.recv_timeout(started.elapsed() * REST) == Err(RecvTimeoutError::Timeout)
    }
}

impl Known {
    /// What to ask; nothing where all is as it was.
    fn questions(&mut self, generation: u64, index: &Index) -> Vec<Question> {
        let seen = (generation, index.asked(), index.segments().len());
        if self.seen == seen && self.answers.len() == KEPT {
            return Vec::new();
        }
        self.seen = seen;
        (0..ROUND).map_while(|number| index.question(number)).collect()
    }

    /// False when the watch is to end.
    fn look(&mut self, index: &Index, questions: &[Question], stopped: &mpsc::Receiver<()>) -> bool {
        for question in questions {
            let started = Instant::now();
            let ask = || index.try_aside(question, index.settings.effort, &Stop::default());
            let answers = lowered(PRIORITY, ask);
            let Ok(Some(found)) = answers else { return true };
            if self.answers.len() == KEPT {
                self.answers.pop_front();
            }
            self.answers.push_back(found);
            if stopped.recv_timeout(started.elapsed() * REST) != Err(RecvTimeoutError::Timeout) {
                return false;
            }
        }
        true
    }
}
