//! What is stored and asked: another vector for each number and kind, made while the load runs.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::texts::Texts;

/// Clusters, and dimensions, of vectors that are made up.
const CENTRES: u64 = 2_000;
const DIMENSION: usize = 384;
/// At most so much of the way from one text to another a text is moved: its ten nearest are as far as among texts alone then,
/// and as hard to tell apart.
const MOVED: f32 = 0.5;

/// Of the same number, the vector that is stored, one to ask with, and one to store in its place.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Stored = 0,
    Asked = 1,
    Replaced = 2,
}

pub(super) enum Vectors {
    /// Around random centres, with noise in all dimensions: harder than anything that a model of language gives.
    Clusters,
    /// Real ones, each moved along the way from one to another: noise of the same spectrum.
    Texts { rows: Vec<Vec<f32>>, queries: Vec<Vec<f32>> },
}

impl Vectors {
    pub(super) async fn open(texts: Option<&Path>) -> Result<Self> {
        let Some(folder) = texts else { return Ok(Self::Clusters) };
        let Texts { rows, queries, .. } = Texts::load(folder).await?;
        ensure!(!rows.is_empty() && !queries.is_empty(), "{} has no texts", folder.display());
        Ok(Self::Texts { rows, queries })
    }

    pub(super) fn dimension(&self) -> usize {
        match self {
            Self::Clusters => DIMENSION,
            Self::Texts { rows, .. } => rows[0].len(),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Clusters => format!("in {CENTRES} random clusters"),
            Self::Texts { rows, .. } => format!("like {} texts", rows.len()),
        }
    }

    pub(super) fn of(&self, number: usize, kind: Kind) -> Vec<f32> {
        let seed = (number as u64) << 8 | kind as u64;
        match self {
            Self::Clusters => {
                let mut centre = Mix((number as u64).wrapping_mul(7_919) % CENTRES);
                let mut noise = Mix(seed.wrapping_add(CENTRES << 32));
                (0..DIMENSION).map(|_| centre.next() + noise.next()).collect()
            }
            Self::Texts { rows, queries } => {
                let mut chance = Mix(seed);
                let among = if matches!(kind, Kind::Asked) { queries } else { rows };
                let (from, to) = (chance.one_of(rows), chance.one_of(rows));
                let part = MOVED * chance.next().abs();
                let moved = among[number % among.len()].iter().zip(from.iter().zip(to));
                moved.map(|(at, (from, to))| at + part * (to - from)).collect()
            }
        }
    }
}

/// SplitMix64: numbers between -1 and 1, cheap enough to be made while the load runs.
struct Mix(u64);

impl Mix {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn next(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn one_of<'a>(&mut self, rows: &'a [Vec<f32>]) -> &'a [f32] {
        &rows[(self.bits() % rows.len() as u64) as usize]
    }
}
