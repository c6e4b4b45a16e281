//! Proof that every row can be found: a walk over all links from where searches begin, and the repair where it fails.

use super::build::Draft;
use super::codes::Codes;
use super::kernel::Kernel;
use super::walk::{Alone, Scratch, Terrain};

/// Candidates for the link to a row that nothing leads to.
const EF: usize = 64;
/// Rounds of repair; what is left then becomes a place where searches begin.
const ROUNDS: usize = 8;

/// The rows in the order in which a breadth-first walk meets them.
pub(super) fn breadth_first<'a>(rows: usize, entries: &[u32], list: impl Fn(u32) -> &'a [u32]) -> Vec<u32> {
    let mut met = vec![false; rows];
    let mut order = Vec::with_capacity(rows);
    let meet = |row: u32, met: &mut Vec<bool>, order: &mut Vec<u32>| {
        if !std::mem::replace(&mut met[row as usize], true) {
            order.push(row);
        }
    };
    entries.iter().for_each(|entry| meet(*entry, &mut met, &mut order));
    let mut next = 0;
    while next < order.len() {
        let row = order[next];
        next += 1;
        list(row).iter().for_each(|neighbour| meet(*neighbour, &mut met, &mut order));
    }
    order
}

/// Links what no walk from `entries` meets to the nearest row that one does meet, or adds it to the entries.
/// Returns how many rows had to be linked.
pub(super) fn repair(codes: &Codes, kernel: Kernel, draft: &mut Draft, degree: usize, entries: &mut Vec<u32>) -> usize {
    let mut repaired = 0;
    let mut scratch = Scratch::default();
    let mut query = codes.empty_query();
    for _ in 0..ROUNDS {
        let lost = unreached(draft, entries);
        if lost.is_empty() {
            return repaired;
        }
        repaired += lost.len();
        for row in lost {
            codes.pack_row(row, &mut query);
            let terrain = Terrain { codes, adjacency: &*draft, kernel, entries };
            terrain.walk(&query, EF, &mut scratch, &mut Alone).expect("nobody stops it");
            let near = scratch.pool.candidates().iter().map(|candidate| candidate.row()).filter(|near| *near != row);
            let nearest: Vec<u32> = near.collect();
            let with_room = nearest.iter().find(|near| draft.list(**near).len() < degree);
            let Some(from) = with_room.or_else(|| nearest.first()).copied() else { continue };
            let mut list = draft.list(from).to_vec();
            // The farthest gives way where there is no room; if something hung on it, the next round finds it.
            list.truncate(degree - 1);
            list.push(row);
            draft.set(from, &list);
        }
    }
    let lost = unreached(draft, entries);
    entries.extend(lost);
    repaired
}

/// The rows that no walk from `entries` meets.
pub(super) fn unreached(draft: &Draft, entries: &[u32]) -> Vec<u32> {
    let mut met = vec![false; draft.rows()];
    for row in breadth_first(draft.rows(), entries, |row| draft.list(row)) {
        met[row as usize] = true;
    }
    (0..draft.rows() as u32).filter(|row| !met[*row as usize]).collect()
}
