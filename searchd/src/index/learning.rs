//! Graphs that were tried before users asked much are tried anew with what they ask.
//!
//! How many candidates a recall takes depends on the questions more than on the rows ([`super::trial`]). So the calibration of a
//! segment follows what is asked of its collection. It is kept in memory: a segment that is opened again has the one that it was
//! built with until users have asked enough once more.

use super::Index;
use super::graph::Error;
use crate::search::stop::Stop;

/// Once so many more questions were asked, those that are kept are others.
const RENEWED: u64 = 2_048;

impl Index {
    /// Tries the graph of one segment with what users asked, if there is one that has not been, or not for long; returns whether
    /// there was. Compares all of its rows with some two
    /// hundred questions: about ten seconds of a core for a million of 384 dimensions.
    pub fn learn(&self, stop: &Stop) -> Result<bool, Error> {
        let asked = self.asked();
        let is_due = |tried: u64| tried == 0 || asked.saturating_sub(tried) >= RENEWED;
        for segment in self.segments() {
            let Some(proposer) = segment.proposer().filter(|proposer| is_due(proposer.asked())) else { continue };
            if !segment.is_fit() {
                continue;
            }
            let taken = self.recent.taken();
            if taken.questions.is_empty() {
                return Ok(false);
            }
            proposer.try_with(&taken, &self.settings, &segment.vectors, stop)?;
            return Ok(true);
        }
        Ok(false)
    }
}
