//! Searchds of a region tail each other's log, so that each of them can answer any read.
//!
//! Entries merge by stamp, whatever their order and however often they come, so there is no leader to elect and nothing
//! to agree on: a link that breaks goes on where it was, or starts anew. `server` hands out this instance's own entries;
//! `link` fetches a peer's.

mod link;
mod server;
mod state;

pub use link::{Link, Links};
pub use server::Server;
