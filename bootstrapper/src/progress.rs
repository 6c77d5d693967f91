//! The story of a run, from its beginning, for whoever follows it.

use api::bootstrap::{self, PhaseState, progress::Event};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::watch;

mod server;
mod tls;

pub(crate) use server::ResultFiles;
pub use server::{Finished, ProgressError, ProgressServer};
pub use tls::TlsError;

/// Events that are kept. A run has some dozens of phases and some hundreds of lines; a program that says
/// more is not followed any more, its lines are in the log.
const MAX_EVENTS: usize = 10_000;

/// The events so far. Followers read at their own pace.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    events: Mutex<Vec<Event>>,
    count: watch::Sender<usize>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            events: Mutex::default(),
            count: watch::Sender::new(0),
        }
    }
}

impl Progress {
    /// A phase changed its state.
    pub fn phase(&self, name: &str, (number, of): (u32, u32), state: PhaseState) {
        let elapsed = self.begun.elapsed();
        self.push(Event::Phase(bootstrap::Phase {
            name: name.to_owned(),
            number,
            of,
            state: state.into(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        }));
    }

    /// A program wrote a line.
    pub fn line(&self, line: &str) {
        if self.events().len() < MAX_EVENTS {
            self.push(Event::Log(line.to_owned()));
        }
    }

    /// The run is over; without an error it succeeded.
    pub fn ended(&self, error: Option<String>) {
        self.push(Event::Ended(bootstrap::Ended {
            succeeded: error.is_none(),
            error: error.unwrap_or_default(),
        }));
    }

    /// Whether the run ended well.
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        matches!(self.events().last(), Some(Event::Ended(ended)) if ended.succeeded)
    }

    /// The event with this number, from 0, as soon as there is one.
    pub async fn event(&self, number: usize) -> Option<Event> {
        let mut count = self.count.subscribe();
        // Fails only when the sender is gone, which is ours.
        count.wait_for(|count| *count > number).await.ok()?;
        self.events().get(number).cloned()
    }

    fn push(&self, event: Event) {
        let mut events = self.events();
        events.push(event);
        self.count.send_replace(events.len());
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        // A vector that something panicked over is still a vector.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn lines(&self) -> Vec<String> {
        let events = self.events();
        let lines = events.iter().filter_map(|event| match event {
            Event::Log(line) => Some(line.clone()),
            _other => None,
        });
        lines.collect()
    }
}
