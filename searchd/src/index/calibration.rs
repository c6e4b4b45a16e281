//! What a graph is worth: how many candidates find which share of the ten nearest, measured when a segment is built.
//!
//! One half of the questions are rows of the segment, left out of their own answers. The other are sums of two rows that
//! have nothing to do with each other, for real questions often come from elsewhere than the rows, and are harder. What
//! counts is the half that is answered worse. The answers are compared with exact ones.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::graph::{Asked, Error, Graph};
use super::kernel::Kernel;
use super::plan::Way;
use super::score::Scorer;
use super::vectors::Vectors;
use crate::engine::settings::{Effort, Recall, Settings, USUAL_EF};
use crate::search::stop::Stop;

/// Hits whose recall is measured.
pub const K: usize = 10;
/// Questions of a trial: recall is known to about a hundredth.
const QUESTIONS: usize = 200;
/// Rows compared with all questions while they are in the processor's cache.
const BLOCK: usize = 32;
/// Where recall is measured; between these it is interpolated.
const EFS: [usize; 15] = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 1_536];
/// Recall after which no more candidates are tried.
const ENOUGH: f32 = 0.999;
/// Real questions are harder than a trial's: so much of what a target leaves unfound may be unfound in a trial.
const MARGIN: f64 = 0.6;
/// Candidates past the largest that was measured, for recall that was not reached.
const BEYOND: usize = 2;

/// Recall by candidates, both ascending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub ef: u32,
    /// The part of the ten nearest that was found, at least what fewer candidates found.
    pub recall: f32,
}

impl Calibration {
    pub fn new(points: Vec<Point>) -> Self {
        Self { points }
    }

    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Whether the recall was reached in the trial.
    pub fn reaches(&self, recall: Recall) -> bool {
        self.points.last().is_some_and(|last| f64::from(last.recall) >= strict(recall))
    }

    /// Candidates to keep for a recall.
    pub fn ef_for(&self, recall: Recall) -> usize {
        let wanted = strict(recall) as f32;
        let Some(at) = self.points.iter().position(|point| point.recall >= wanted) else {
            return self.points.last().map_or(USUAL_EF as usize, |last| last.ef as usize * BEYOND);
        };
        let high = self.points[at];
        let Some(low) = at.checked_sub(1).map(|before| self.points[before]) else { return high.ef as usize };
        let part = (wanted - low.recall) / (high.recall - low.recall).max(f32::EPSILON);
        (low.ef as f32 + part * (high.ef - low.ef) as f32).ceil() as usize
    }

    /// Candidates to keep for an effort, by a graph that needs `expansion` times those of another for equal recall.
    pub fn candidates(&self, effort: Effort, expansion: usize) -> usize {
        match effort {
            Effort::Recall(recall) => self.ef_for(recall),
            Effort::Candidates(ef) => {
                let usual = self.ef_for(Recall::USUAL).max(USUAL_EF as usize * expansion);
                (ef as usize * usual).div_ceil(USUAL_EF as usize)
            }
        }
    }
}

/// The recall to aim for in a trial.
fn strict(recall: Recall) -> f64 {
    1.0 - (1.0 - recall.share()) * MARGIN
}

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
    /// The same questions for the same vectors.
    pub fn new(settings: &Settings, vectors: &'a Vectors) -> Self {
        let kernel = Kernel::detect();
        let mut random = SmallRng::seed_from_u64(vectors.len() as u64);
        let mut any = || random.random_range(0..vectors.len() as u32);
        let mut questions: Vec<Question> = (0..QUESTIONS.min(vectors.len()))
            .map(|i| {
                let (row, other) = (any(), any());
                let own = i.is_multiple_of(2).then_some(row);
                let mut values = vectors.row(row).to_vec();
                if own.is_none() {
                    let others = vectors.row(other).to_vec();
                    values.iter_mut().zip(others).for_each(|(value, other)| *value = f32::midpoint(*value, other));
                }
                let scorer = Scorer::new(settings.metric, kernel, &values);
                Question { scorer, own, nearest: Vec::with_capacity(K + 1) }
            })
            .collect();
        answer(vectors, &mut questions);
        Self { vectors, questions, stop: Stop::default() }
    }

    /// Measures a graph.
    pub fn calibrate(&self, graph: &dyn Graph) -> Result<Calibration, Error> {
        let mut points: Vec<Point> = Vec::new();
        for ef in EFS.iter().copied().filter(|ef| *ef >= graph.least(K).min(EFS[EFS.len() - 1])) {
            let measured = self.recall(graph, ef)?;
            let recall = points.last().map_or(measured, |before| before.recall.max(measured));
            points.push(Point { ef: ef as u32, recall });
            if recall >= ENOUGH || ef >= self.vectors.len() {
                break;
            }
        }
        Ok(Calibration { points })
    }

    fn recall(&self, graph: &dyn Graph, ef: usize) -> Result<f32, Error> {
        // Of rows, and of others.
        let (mut found, mut all) = ([0; 2], [0; 2]);
        for question in &self.questions {
            let half = usize::from(question.own.is_none());
            let asked =
                Asked { query: question.scorer.query(), k: K, ef, way: Way::Graph, admission: None, stop: &self.stop };
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

/// Compares every row with every question.
fn answer(vectors: &Vectors, questions: &mut [Question]) {
    for start in (0..vectors.len()).step_by(BLOCK) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(points: &[(u32, f32)]) -> Calibration {
        Calibration::new(points.iter().map(|(ef, recall)| Point { ef: *ef, recall: *recall }).collect())
    }

    #[test]
    fn candidates_grow_with_the_recall_that_is_asked_for() {
        let measured = calibration(&[(10, 0.5), (32, 0.9), (64, 0.96), (128, 0.99)]);
        let efs = [0.5, 0.8, 0.9, 0.95, 0.98, 0.999].map(|share| measured.ef_for(Recall::new(share).unwrap()));
        assert!(efs.is_sorted(), "{efs:?}");
        assert!((64..128).contains(&efs[3]), "{efs:?}");
        assert_eq!(efs[5], 256, "what was not reached takes more than was tried");
        assert!(measured.reaches(Recall::USUAL) && !measured.reaches(Recall::new(0.999).unwrap()));
    }

    #[test]
    fn the_usual_effort_finds_the_usual_recall_and_others_are_in_proportion() {
        let hard = calibration(&[(64, 0.8), (128, 0.97), (256, 0.99)]);
        let usual = hard.candidates(Effort::Candidates(USUAL_EF), 1);
        assert_eq!(usual, hard.ef_for(Recall::USUAL));
        assert_eq!(hard.candidates(Effort::Candidates(USUAL_EF / 2), 1), usual.div_ceil(2));
        // Easy data is no reason to keep fewer than are asked for.
        let easy = calibration(&[(10, 1.0)]);
        assert_eq!(easy.candidates(Effort::Candidates(40), 1), 40);
        assert_eq!(easy.candidates(Effort::Candidates(40), 3), 120);
        assert_eq!(Calibration::default().candidates(Effort::Candidates(64), 1), 64);
    }
}
