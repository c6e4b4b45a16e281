//! Bytes that begin on a cache line: rows of codes are loaded and prefetched line by line.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use memmap2::MmapMut;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Files are read by several threads in parts of at least this size.
const READ_PART: usize = 16 << 20;
/// Most threads that read one file.
const READERS: usize = 4;

/// A fixed number of bytes, on pages of their own: aligned to [`LINE`] and more, and given back as soon as they are dropped.
pub struct Lines {
    pages: MmapMut,
    len: usize,
}

impl Lines {
    /// All zeros.
    ///
    /// # Panics
    /// When the system has no such memory left.
    pub fn zeroed(len: usize) -> Self {
        // One line more than needed, so that the load of a last, partial block stays inside.
        let pages = MmapMut::map_anon(len + LINE).expect("the system has the memory that is asked for");
        Self { pages, len }
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut lines = Self::zeroed(bytes.len());
        lines.bytes_mut().copy_from_slice(bytes);
        lines
    }

    /// `len` bytes of a file from `at` on, into memory of our own: no page of them is waited for later, and a file that
    /// is cut off is an error here rather than a signal then.
    pub fn read(file: &File, at: u64, len: usize) -> io::Result<Self> {
        let mut lines = Self::zeroed(len);
        let part = len.div_ceil(READERS).max(READ_PART);
        let read = |i: usize, part_of: &mut [u8]| file.read_exact_at(part_of, at + (i * part) as u64);
        std::thread::scope(|scope| {
            let mut parts = lines.bytes_mut().chunks_mut(part).enumerate();
            let first = parts.next();
            let readers: Vec<_> = parts.map(|(i, bytes)| scope.spawn(move || read(i, bytes))).collect();
            let first = first.map_or(Ok(()), |(i, bytes)| read(i, bytes));
            let others = readers.into_iter().map(|reader| reader.join().expect("reading doesn't panic"));
            others.fold(first, Result::and)
        })?;
        Ok(lines)
    }

    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.pages[..self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages[..self.len]
    }

    /// The same memory, to be shared and cut into parts. Asks for huge pages, for a search touches pages at random; no harm if there
    /// are none.
    ///
    /// Only now that it is filled, so that the system puts them together by and by. Whoever asks before gets them at the first touch,
    /// and where memory is full of what files hold the system moves other pages about to make room: for tens of milliseconds, in
    /// which everybody waits who touches one of those.
    pub fn into_shared(self) -> Bytes {
        #[cfg(target_os = "linux")]
        let _ = self.pages.advise(memmap2::Advice::HugePage);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Lines {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// Numbers in shared bytes.
#[derive(Clone)]
pub struct Words(Bytes);

impl Words {
    pub fn copied(words: &[u32]) -> Self {
        Self(Lines::from_bytes(bytemuck::cast_slice(words)).into_shared())
    }

    /// `None` if they are not whole numbers. Copies them if they are not where numbers may be.
    pub fn open(bytes: Bytes) -> Option<Self> {
        if !bytes.len().is_multiple_of(size_of::<u32>()) {
            return None;
        }
        let is_aligned = bytemuck::try_cast_slice::<u8, u32>(&bytes).is_ok();
        Some(Self(if is_aligned { bytes } else { Lines::from_bytes(&bytes).into_shared() }))
    }

    #[inline(always)]
    pub fn get(&self) -> &[u32] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_in_parts_and_one_cut_off_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..READ_PART * 2 + 77).map(|i| (i % 251) as u8).collect();
        file.write_all_at(&bytes, 5).unwrap();
        assert!(Lines::read(&file, 5, bytes.len()).unwrap().bytes() == bytes);
        assert!(Lines::read(&file, 6, bytes.len()).is_err());
    }
}
