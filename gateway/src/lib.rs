//! The gateway: three transports, one pipeline, a region's searchds behind it.

pub mod audit;
pub mod body;
pub mod config;
mod cork;
pub mod current;
pub mod dispatch;
pub mod error;
mod field;
mod file_watch;
pub mod forward;
pub mod front;
pub mod gateway;
pub mod handover;
pub mod layers;
pub mod listener;
pub mod live;
pub mod openapi;
mod pipeline;
pub mod region;
pub mod request;
pub mod rescue;
pub mod route;
pub mod sse;
pub mod streams;
pub mod upgrade;
mod view;
pub mod websocket;
