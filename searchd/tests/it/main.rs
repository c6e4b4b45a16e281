//! searchd from outside: its gRPC surface, its durability, and its answers beside the exact ones.

// Helpers are tests, too; clippy knows only functions marked as such.
#![allow(clippy::unwrap_used)]

mod arriving;
mod arriving_forms;
mod backpressure;
mod backup;
mod collections;
mod faults;
mod filters;
mod flipped;
mod images;
mod murder;
mod pacing;
mod points;
mod process;
mod recall;
mod replication;
mod restart;
mod running;
mod search;
mod short;
mod small;
mod streaming;
