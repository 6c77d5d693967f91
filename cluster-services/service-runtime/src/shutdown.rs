//! One shutdown signal for a whole service.

use crate::Chain;
use std::io;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

/// Tells whoever holds a clone that the service is to finish its work and stop.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Requests the shutdown; dropping it requests it, too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Shutdown {
    /// A signal and its trigger.
    #[must_use]
    pub fn new() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Self(receiver))
    }

    /// A signal that SIGTERM or SIGINT requests. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let (trigger, shutdown) = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
                _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
            }
            trigger.request();
        });
        Ok(shutdown)
    }

    /// Waits until shutdown is requested.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        // An error means that the trigger is gone, and with it everybody who could keep us running.
        let _trigger_gone = receiver.wait_for(|requested| *requested).await;
    }
}

impl Trigger {
    /// Requests the shutdown.
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

/// Waits for tasks of a service that end by themselves: they have seen its [`Shutdown`].
pub async fn join(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(error = %Chain(&error), "a task of the service failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn every_clone_learns_of_a_request() {
        let (trigger, shutdown) = Shutdown::new();
        let other = shutdown.clone();
        let early = timeout(Duration::ZERO, shutdown.requested()).await;
        assert!(early.is_err());
        trigger.request();
        shutdown.requested().await;
        other.requested().await;
    }

    #[tokio::test]
    async fn a_lost_trigger_counts_as_a_request() {
        let (trigger, shutdown) = Shutdown::new();
        drop(trigger);
        shutdown.requested().await;
    }
}
