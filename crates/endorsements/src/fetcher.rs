//! The thread that fetches what is missing: one request at a time, for everybody who waits.

mod queue;

use crate::{
    Clock, EndorsementId, FetchError, Kds, RejectedLeaf, Store, StoreError, backoff::Backoff,
};
use queue::{Queue, Step};
use snp::Product;
use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Bounds of the fetching.
#[derive(Clone, Copy, Debug)]
pub struct FetchConfig {
    /// For one request, in all.
    pub timeout: Duration,
    /// Least time between the start of two requests.
    pub interval: Duration,
    /// Wait after a first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest such wait.
    pub longest_pause: Duration,
    /// How long "there is none" is believed.
    pub absent: Duration,
    /// How long something is fetched for that nobody asks for any more.
    pub patience: Duration,
    /// How many things may be waiting.
    pub queue: usize,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            interval: Duration::from_millis(500),
            first_pause: Duration::from_secs(2),
            longest_pause: Duration::from_secs(300),
            absent: Duration::from_secs(60),
            patience: Duration::from_secs(600),
            queue: 256,
        }
    }
}

/// Something to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wanted {
    Leaf(EndorsementId),
    List(Product),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(id) => write!(f, "{id}"),
            Self::List(product) => write!(f, "revocation list of {product}"),
        }
    }
}

/// The thread; it ends when this is dropped, after the request it is in.
#[derive(Debug)]
pub(crate) struct Fetcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Fetcher {
    pub(crate) fn start(
        kds: Kds,
        config: FetchConfig,
        store: Arc<Store>,
        clock: Clock,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(config)),
            changed: Condvar::new(),
        });
        let worker = Worker {
            kds,
            store,
            clock,
            interval: config.interval,
            backoff: Backoff::new(config.first_pause, config.longest_pause),
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new()
            .name("endorsements".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Schedules something, once; returns at once.
    pub(crate) fn schedule(&self, wanted: Wanted) {
        if self.shared.queue().schedule(wanted, Instant::now()) {
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.shared.queue().close();
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the fetching thread panicked");
        }
    }
}

impl Shared {
    /// Nothing panics while it is held.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing to fetch, when it is time; `None` at the end.
    fn next(&self) -> Option<Wanted> {
        let mut queue = self.queue();
        loop {
            queue = match queue.step(Instant::now()) {
                Step::End => return None,
                Step::Fetch(wanted) => return Some(wanted),
                Step::Sleep(None) => self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
                Step::Sleep(Some(time)) => {
                    self.changed
                        .wait_timeout(queue, time)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            }
        }
    }
}

struct Worker {
    kds: Kds,
    store: Arc<Store>,
    clock: Clock,
    interval: Duration,
    backoff: Backoff,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        while let Some(wanted) = self.shared.next() {
            let earliest_next = Instant::now() + self.interval;
            let outcome = self.fetch(wanted);
            metrics::counter!("endorsement_fetches_total", "outcome" => label(&outcome))
                .increment(1);
            let pause = self.settle(wanted, outcome);
            let resume = earliest_next.max(Instant::now() + pause);
            self.shared.queue().pause_until(resume);
        }
    }

    fn fetch(&self, wanted: Wanted) -> Result<(), FetchError> {
        let stored = match wanted {
            Wanted::Leaf(id) => {
                let der = self.kds.leaf(&id)?;
                let authorities = self.store.authorities();
                authorities
                    .check(&id, &der, (self.clock)())
                    .map_err(FetchError::RejectedLeaf)?;
                self.store.put_leaf(&id, &der)
            }
            Wanted::List(product) => self.fetch_list(product)?,
        };
        if let Err(error) = stored {
            // It is in memory and serves this process; the next one fetches it again.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%wanted, %error, cause, "fetched, not kept on disk");
        }
        Ok(())
    }

    fn fetch_list(&self, product: Product) -> Result<Result<(), StoreError>, FetchError> {
        let der = self.kds.revocation_list(product)?;
        let now = (self.clock)();
        let (authorities, list) = self
            .store
            .authorities()
            .of_list(product, &der, now)
            .map_err(FetchError::RejectedList)?;
        Ok(self
            .store
            .put_revocation_list(authorities, &list, &der, now))
    }

    /// Says what happens next to what was wanted, and how long nothing is fetched at all.
    fn settle(&mut self, wanted: Wanted, outcome: Result<(), FetchError>) -> Duration {
        let now = Instant::now();
        let error = match outcome {
            Ok(()) => {
                info!(%wanted, "fetched");
                self.shared.queue().done(wanted);
                self.backoff.reset();
                return Duration::ZERO;
            }
            Err(error) => error,
        };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        warn!(%wanted, %error, cause, "not fetched");
        if error.is_temporary() {
            self.shared.queue().again(wanted, now);
            return error.pause(&mut self.backoff);
        }
        // The service works; it does not have this one, or lies about it.
        self.shared.queue().absent(wanted, now);
        self.backoff.reset();
        Duration::ZERO
    }
}

fn label(outcome: &Result<(), FetchError>) -> &'static str {
    match outcome {
        Ok(()) => "fetched",
        Err(FetchError::Absent(_) | FetchError::NotServed) => "absent",
        Err(FetchError::RateLimited { .. }) => "rate-limited",
        Err(
            FetchError::RejectedLeaf(RejectedLeaf::Mismatch(_))
            | FetchError::RejectedLeaf(_)
            | FetchError::RejectedList(_)
            | FetchError::TooLarge(_),
        ) => "refused",
        Err(FetchError::Status(_) | FetchError::Transport(_)) => "unavailable",
    }
}
