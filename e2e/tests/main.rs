//! The whole product as its clients meet it: real processes, real sockets, every protocol.
//!
//! One `nearfield dev` is shared by most tests, each in a tenant of its own (see `space`); a test that stops, starves
//! or kills a process starts its own.

mod auth;
mod backlog;
mod bodies;
mod browser;
mod cache_disk;
mod caching;
mod cluster;
mod collections;
mod deadlines;
mod deploy;
mod errors;
mod explain;
mod filters;
mod floods;
mod frame_cases;
mod full_disk;
mod fuzz;
mod grpc;
mod grpc_web;
mod hostile;
mod http2_frames;
mod http3_frames;
mod keys;
mod limits;
mod load;
mod observability;
mod openapi;
mod overload;
mod perimeter;
mod points;
mod protocols;
mod raw;
mod restarts;
mod search;
mod sessions;
mod shutdown;
mod small_disk;
mod smuggling;
mod space;
mod sse;
mod storm;
mod streaming;
mod traces;
mod websocket;
mod websocket_frames;
