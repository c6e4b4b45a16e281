//! The sums by the vector instructions of x86-64. Callers have checked shapes and features.

pub(super) mod avx2;
pub(super) mod avx512;
pub(super) mod lists;
