//! What every service shares: configuration, logs, metrics, health, limits, audit file, shutdown.
//!
//! This crate knows neither keys nor nodes. It turns sockets, signals and files into values that the
//! services decide about, and bounds each of them: no connection, body, file or map here grows with
//! what a peer sends. It trusts the configuration file and the files that it names.
//!
//! A service is `program::main`, which loads the configuration, sets up logs and runs one future
//! until [`Shutdown`] is requested.

pub mod admin;
pub mod audit_log;
pub mod config;
pub mod limit;
pub mod logs;
pub mod mtls;
pub mod program;
pub mod secrets;
pub mod serve;
pub mod shutdown;
pub mod watch;

pub use admin::Readiness;
pub use logs::Chain;
pub use shutdown::Shutdown;
