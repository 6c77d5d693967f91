//! The store, and the fetching behind it.

use crate::{
    AuthoritySet, EndorsementId, FetchConfig, Kds, KdsError, Store, StoreError,
    fetcher::{Fetcher, Wanted},
};
use snp::{Authorities, KeyKind, UnixTime};
use std::{
    fmt, io,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use thiserror::Error;

/// What time it is; an edge's to know.
pub type Clock = Arc<dyn Fn() -> UnixTime + Send + Sync>;

/// The machine's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        UnixTime(since.map_or(0, |since| since.as_secs()))
    })
}

/// Where endorsements are kept and fetched from.
pub struct Config {
    /// The folder.
    pub folder: PathBuf,
    /// The most files in it.
    pub max_files: usize,
    /// Whose certificates are kept.
    pub authorities: AuthoritySet,
    /// Base URL of the key distribution service, and the bounds of fetching from it; `None` for
    /// offline only.
    pub kds: Option<(String, FetchConfig)>,
    /// What time it is.
    pub clock: Clock,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("folder", &self.folder)
            .field("kds", &self.kds)
            .finish_non_exhaustive()
    }
}

/// Why there are no endorsements.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Class: malformed.
    #[error("address of the key distribution service")]
    Kds(#[source] KdsError),
    /// Class: unavailable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Class: internal.
    #[error("start the fetching thread")]
    Thread(#[source] io::Error),
}

/// Endorsements for an appraisal. Asking never waits for the network.
pub struct Endorsements {
    store: Arc<Store>,
    clock: Clock,
    fetcher: Option<Fetcher>,
}

impl Endorsements {
    /// Opens the folder and starts the fetching thread, unless offline.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let store = Store::open(&config.folder, config.max_files, config.authorities)?;
        let store = Arc::new(store);
        let start = |(url, bounds): (String, FetchConfig)| {
            let kds = Kds::new(&url, bounds.timeout).map_err(OpenError::Kds)?;
            Fetcher::start(kds, bounds, Arc::clone(&store), Arc::clone(&config.clock))
                .map_err(OpenError::Thread)
        };
        let fetcher = config.kds.map(start).transpose()?;
        Ok(Self {
            store,
            clock: config.clock,
            fetcher,
        })
    }

    /// A certificate, DER, if it is in the store; else it is scheduled and the caller asks again
    /// later. A VLEK is never fetched: the service gives none out.
    #[must_use]
    pub fn request(&self, id: &EndorsementId) -> Option<Vec<u8>> {
        let found = self.store.leaf(id, (self.clock)());
        if found.is_none() && id.kind() == KeyKind::Vcek {
            self.schedule(Wanted::Leaf(*id));
        }
        found
    }

    /// The revocation list of a root, DER, if one is in the store that is in force; else it is
    /// scheduled.
    #[must_use]
    pub fn request_revocation_list(&self, authorities: &Authorities) -> Option<Vec<u8>> {
        let found = self.store.revocation_list(authorities, (self.clock)());
        if found.is_none() {
            self.schedule(Wanted::List(authorities.product()));
        }
        found
    }

    /// Fetches the revocation list of a root again, before the one in the store ends.
    pub fn refresh_revocation_list(&self, authorities: &Authorities) {
        self.schedule(Wanted::List(authorities.product()));
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn schedule(&self, wanted: Wanted) {
        if let Some(fetcher) = &self.fetcher {
            fetcher.schedule(wanted);
        }
    }
}

impl fmt::Debug for Endorsements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endorsements")
            .field("store", &self.store)
            .field("fetcher", &self.fetcher)
            .finish_non_exhaustive()
    }
}
