//! What every Nearfield process needs around its work: settings, logs and traces, metrics, readiness and draining.

pub mod drain;
pub mod settings;
