//! searchd from outside: its gRPC surface, its durability, and its answers beside the exact ones.

mod collections;
mod points;
mod running;
mod search;
