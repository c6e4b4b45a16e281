//! The command line as people and scripts use it: real processes, real files.

mod credentials;
mod dev;
mod formats;
mod metrics;
mod run;
mod settings;
mod transfer;
