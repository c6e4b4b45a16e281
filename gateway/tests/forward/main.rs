//! The gateway's inside against a real searchd: REST, streams, WebSockets and gRPC, without the edge around them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod discovery;
mod failover;
mod grpc;
mod liar;
mod liars;
mod name_server;
mod openapi;
mod operating;
mod regions;
mod residency;
mod rest;
mod stand_in;
mod streams;
mod support;
mod websockets;
