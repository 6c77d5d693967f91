//! What every service shares: configuration, logs, metrics, health, shutdown.
