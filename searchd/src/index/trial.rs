//! What a graph is tried with: questions whose answers are known.
//!
//! One half of the questions are rows of the segment, left out of their own answers. The other are the last that users asked.
//! How hard those are no vector tells: questions may be of the rows' kind or from elsewhere, and then need several times the
//! candidates. So until enough were asked the other half are sums of two rows that have nothing to do with each other: as hard as
//! short texts that look for long ones among some ten thousand, and harder the more rows there are. What counts is the half that is answered worse. The answers are compared with
//! exact ones.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::calibration::{Calibration, Point};
use super::graph::{Admission, Asked, Error, Graph};
use super::kernel::Kernel;
use super::plan::Way;
use super::score::Scorer;
use super::vectors::Vectors;
use crate::engine::settings::Settings;
use crate::search::stop::{Stop, Stopped};

/// Hits whose recall is measured.
pub const K: usize = 10;
/// Questions of either half: recall is known to about a hundredth.
const HALF: usize = 100;
/// Fewer questions of users are no half.
pub const ASKED: usize = 64;
/// Rows compared with all questions while they are in the processor's cache.
const BLOCK: usize = 32;
/// Where recall is measured; between these it is interpolated.
const EFS: [usize; 15] = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536];
/// Recall after which no more candidates are tried.
const ENOUGH: f32 = 0.999;

/// Questions with their exact answers.
pub struct Trial<'a> {
    vectors: &'a Vectors,
    questions: Vec<Question>,
    stop: Stop,
}

struct Question {
    scorer: Scorer,
    /// The row that it is.
    own: Option<u32>,
    /// Ranks of the nearest, best first.
    nearest: Vec<f32>,
}

impl<'a> Trial<'a> {
    /// Of the vectors, and of what users `asked` where they asked enough; otherwise the same questions for the same vectors.
    pub fn new(settings: &Settings, vectors: &'a Vectors, asked: &[Vec<f32>], stop: &Stop) -> Result<Self, Stopped> {
        let mut random = SmallRng::seed_from_u64(vectors.len() as u64);
        let mut any = || random.random_range(0..vectors.len() as u32);
        let each = HALF.min(vectors.len().div_ceil(2));
        let mut questions = Vec::with_capacity(each + each.max(asked.len()));
        for _ in 0..each {
            let row = any();
            questions.push((vectors.row(row).to_vec(), Some(row)));
        }
        if asked.len() >= ASKED {
            questions.extend(asked.iter().map(|values| (values.clone(), None)));
        } else {
            questions.extend((0..each).map(|_| (midpoint(vectors, any(), any()), None)));
        }
        Self::asking(settings, vectors, questions, stop)
    }

    /// With these questions: values, and the number of the row that they are of, if of any.
    pub fn asking(
        settings: &Settings,
        vectors: &'a Vectors,
        questions: impl IntoIterator<Item = (Vec<f32>, Option<u32>)>,
        stop: &Stop,
    ) -> Result<Self, Stopped> {
        let kernel = Kernel::detect();
        let questions = questions.into_iter().map(|(values, own)| {
            let scorer = Scorer::new(settings.metric, kernel, &values);
            Question { scorer, own, nearest: Vec::with_capacity(K + 1) }
        });
        Ok(Self { vectors, questions: answered(vectors, questions.collect(), stop)?, stop: stop.clone() })
    }

    /// Measures a graph.
    pub fn calibrate(&self, graph: &dyn Graph) -> Result<Calibration, Error> {
        let mut points: Vec<Point> = Vec::new();
        let least = graph.least(K);
        for ef in [least].into_iter().chain(EFS.into_iter().filter(|ef| *ef > least)) {
            let measured = self.recall(graph, ef)?;
            let recall = points.last().map_or(measured, |before| before.recall.max(measured));
            points.push(Point { ef: ef as u32, recall });
            if recall >= ENOUGH || ef >= self.vectors.len() {
                break;
            }
        }
        Ok(Calibration::new(points))
    }

    /// By the way that finds less.
    fn recall(&self, graph: &dyn Graph, ef: usize) -> Result<f32, Error> {
        let open = self.recall_by(graph, ef, Way::Graph, None)?;
        let everything = Admission { admits: &|_| true, share: 1.0, listed: None };
        let walk = || self.recall_by(graph, ef, Way::TwoHop, Some(everything));
        Ok(if graph.has_open_way() { open.min(walk()?) } else { open })
    }

    fn recall_by(
        &self,
        graph: &dyn Graph,
        ef: usize,
        way: Way,
        admission: Option<Admission<'_>>,
    ) -> Result<f32, Error> {
        // Of rows, and of others.
        let (mut found, mut all) = ([0; 2], [0; 2]);
        for question in &self.questions {
            let half = usize::from(question.own.is_none());
            let query = question.scorer.query();
            let asked = Asked { query, k: K, ef, way, admission, stop: &self.stop };
            let least = question.nearest.last().copied().unwrap_or(f32::INFINITY);
            let rows = graph.propose(&asked)?.rows;
            let near = rows.iter().filter(|row| Some(**row) != question.own);
            let hits = near.filter(|row| self.rank(question, **row) >= least).count();
            found[half] += hits.min(question.nearest.len());
            all[half] += question.nearest.len();
        }
        let share = |half: usize| if all[half] == 0 { 1.0 } else { found[half] as f32 / all[half] as f32 };
        Ok(share(0).min(share(1)))
    }

    fn rank(&self, question: &Question, row: u32) -> f32 {
        question.scorer.rank(self.vectors.row(row), self.vectors.inverse_norm(row))
    }
}

/// The middle between two rows.
fn midpoint(vectors: &Vectors, one: u32, other: u32) -> Vec<f32> {
    let (mut values, other) = (vectors.row(one).to_vec(), vectors.row(other).to_vec());
    values.iter_mut().zip(other).for_each(|(value, other)| *value = f32::midpoint(*value, other));
    values
}

/// Compares every row with every question.
fn answered(vectors: &Vectors, mut questions: Vec<Question>, stop: &Stop) -> Result<Vec<Question>, Stopped> {
    for start in (0..vectors.len()).step_by(BLOCK) {
        stop.check()?;
        let block = start as u32..(start + BLOCK).min(vectors.len()) as u32;
        for question in questions.iter_mut() {
            for row in block.clone().filter(|row| Some(*row) != question.own) {
                let rank = question.scorer.rank(vectors.row(row), vectors.inverse_norm(row));
                let nearest = &mut question.nearest;
                if nearest.len() == K && nearest.last().is_some_and(|worst| rank <= *worst) {
                    continue;
                }
                let at = nearest.partition_point(|better| *better >= rank);
                nearest.insert(at, rank);
                nearest.truncate(K);
            }
        }
    }
    Ok(questions)
}
