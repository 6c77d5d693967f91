//! Structured logs on stderr.

use crate::config::LogFormat;
use std::{error::Error, fmt};
use tracing_subscriber::{EnvFilter, fmt::time::SystemTime, layer::SubscriberExt};

/// The one environment variable that a service reads: which events to log, as in
/// `info,join_service=debug`.
pub const FILTER_VARIABLE: &str = "CONSTELLATION_LOG";

/// Sends events to stderr from here on. A second call in one process changes nothing.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var(FILTER_VARIABLE)
        .from_env_lossy();
    let base = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_timer(SystemTime);
    let registry = tracing_subscriber::registry().with(filter);
    // Fails only when a subscriber is already set, which is what the caller wants.
    let _already_set = match format {
        LogFormat::Json => {
            tracing::subscriber::set_global_default(registry.with(base.json().flatten_event(true)))
        }
        LogFormat::Human => tracing::subscriber::set_global_default(registry.with(base)),
    };
}

/// Shows an error and everything that caused it, the outermost first. Errors of this project never
/// repeat their source, so this is the only place where a chain is joined.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_shows_every_cause_once() {
        let error = Outer(std::io::Error::other("no space"));
        assert_eq!(Chain(&error).to_string(), "cannot start: no space");
    }
}
