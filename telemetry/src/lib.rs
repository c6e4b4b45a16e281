//! What every Nearfield process needs around its work: settings, logs and traces, metrics, readiness and draining.

pub mod admin;
pub mod allowance;
pub mod debug;
pub mod drain;
pub mod exemplar;
pub mod logging;
pub mod otlp;
pub mod process;
pub mod readiness;
pub mod settings;
pub mod trace_context;
