//! What a graph is worth: how many candidates find which share of the ten nearest, as its [trial](super::trial) has it.

use crate::engine::settings::{Effort, Recall, USUAL_EF};

/// Real questions are harder than a trial's, and those are few: so much of what a target leaves unfound may be unfound in a
/// trial.
const MARGIN: f64 = 0.8;
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

    /// What so many candidates find, between points by proportion; what the first or the last finds outside of them.
    pub fn recall(&self, ef: usize) -> f32 {
        let at = self.points.partition_point(|point| (point.ef as usize) < ef);
        match (at.checked_sub(1).and_then(|before| self.points.get(before)), self.points.get(at)) {
            (Some(low), Some(high)) => {
                let part = (ef as f32 - low.ef as f32) / (high.ef as f32 - low.ef as f32);
                low.recall + part * (high.recall - low.recall)
            }
            (Some(only), None) | (None, Some(only)) => only.recall,
            (None, None) => 0.0,
        }
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
