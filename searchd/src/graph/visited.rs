//! Which rows a walk has met: one byte for each row, which holds the number of the walk. Clearing costs nothing until the
//! numbers run out.

#[derive(Default)]
pub(super) struct Visited {
    marks: Vec<u8>,
    walk: u8,
}

impl Visited {
    /// Forgets everything; `rows` can be met from now on.
    pub(super) fn reset(&mut self, rows: usize) {
        if self.walk == u8::MAX {
            self.marks.fill(0);
            self.walk = 0;
        }
        // Never shorter: the next walk may be through a larger graph again.
        if self.marks.len() < rows {
            self.marks.resize(rows, 0);
        }
        self.walk += 1;
    }

    /// Whether the row is met for the first time; it has been now.
    ///
    /// # Panics
    /// If it can't be met.
    #[inline(always)]
    pub(super) fn meets(&mut self, row: u32) -> bool {
        std::mem::replace(&mut self.marks[row as usize], self.walk) != self.walk
    }

    /// Whether the row was met.
    ///
    /// # Panics
    /// If it can't be met.
    #[inline(always)]
    pub(super) fn has_met(&self, row: u32) -> bool {
        self.marks[row as usize] == self.walk
    }

    /// Copies the rows that are met for the first time to `fresh` and returns how many they are.
    ///
    /// Written without a branch on the outcome, which no processor would guess right.
    ///
    /// # Panics
    /// If a row can't be met.
    #[inline(always)]
    pub(super) fn sift(&mut self, rows: &[u32], fresh: &mut [u32]) -> usize {
        let Self { marks, walk } = self;
        let (marks, walk) = (&mut marks[..], *walk);
        let fresh = &mut fresh[..rows.len()];
        let mut count = 0;
        for row in rows {
            let mark = &mut marks[*row as usize];
            fresh[count] = *row;
            count += usize::from(*mark != walk);
            *mark = walk;
        }
        count
    }
}
