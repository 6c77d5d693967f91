//! The store, and the fetching behind it.

use crate::{
    AuthoritySet, EndorsementId, FetchConfig, Kds, KdsError, Store, StoreError,
    fetcher::{Fetcher, Wanted},
};
use appraisal::Appraiser;
use evidence::Evidence;
use snp::{Authorities, AuthorityError, KeyKind, Leaf, Product, Report, UnixTime};
use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use thiserror::Error;

/// How old a revocation list may be before it is fetched again.
const REFRESH: Duration = Duration::from_secs(86_400);

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

/// What vouches for a report's key, as far as it is here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The certificate, DER.
    pub leaf: Option<Vec<u8>>,
    /// The revocation list of its root, DER.
    pub revocation_list: Option<Vec<u8>>,
}

impl Found {
    /// The same, as an appraisal takes it.
    #[must_use]
    pub fn endorsements(&self) -> appraisal::Endorsements<'_> {
        appraisal::Endorsements {
            leaf: self.leaf.as_deref(),
            revocations: self.revocation_list.as_deref(),
        }
    }
}

/// Why there are no endorsements.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The pinned certificates are broken. Class: internal.
    #[error("authorities")]
    Authorities(#[source] AuthorityError),
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
    /// When each revocation list was last scheduled.
    refreshed: Mutex<HashMap<Product, Instant>>,
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
            refreshed: Mutex::default(),
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
        let due = self.is_refresh_due(authorities.product());
        if found.is_none() || due {
            self.schedule(Wanted::List(authorities.product()));
        }
        found
    }

    /// Lists are in force for a year, and a revocation is news: a list that is there is fetched again
    /// after each start and then once a day, as long as somebody asks for it.
    fn is_refresh_due(&self, product: Product) -> bool {
        let now = Instant::now();
        let mut refreshed = self
            .refreshed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last = refreshed.get(&product);
        let due = last.is_none_or(|last| now.duration_since(*last) > REFRESH);
        if due {
            refreshed.insert(product, now);
        }
        due
    }

    /// What is here for `evidence`. What is missing is scheduled, if a certificate could make
    /// `rules` accept it at `now`, in seconds since 1970.
    #[must_use]
    pub fn find_for(&self, rules: &Appraiser, evidence: &Evidence, now: u64) -> Found {
        let wanted = rules.wanted(evidence, now);
        wanted.map_or_else(Found::default, |wanted| {
            self.find(&wanted.report, &wanted.authorities, wanted.in_table)
        })
    }

    /// What is here for a report that a certificate of one of `authorities` could vouch for; what is
    /// not is scheduled, except a certificate that is `in_table`, the host's table of certificates.
    #[must_use]
    pub fn find(
        &self,
        report: &Report<'_>,
        authorities: &[&Authorities],
        in_table: Option<&[u8]>,
    ) -> Found {
        let ids = authorities.iter().filter_map(|authorities| {
            let id = EndorsementId::of_report(report, authorities.product())?;
            Some((*authorities, id))
        });
        let mut ids: Vec<_> = ids.collect();
        if let Some(given) = in_table.and_then(|der| given(report, der)) {
            // The host says which line it is; what it gives is to be verified all the same.
            if let Some(position) = ids.iter().position(|(_, id)| *id == given) {
                let leaf = self.store.leaf(&given, (self.clock)());
                return self.with_list(leaf, ids.swap_remove(position).0);
            }
        }
        for (authorities, id) in &ids {
            if let Some(leaf) = self.request(id) {
                return self.with_list(Some(leaf), authorities);
            }
        }
        match ids.first() {
            Some((authorities, _)) => self.with_list(None, authorities),
            None => Found::default(),
        }
    }

    fn with_list(&self, leaf: Option<Vec<u8>>, authorities: &Authorities) -> Found {
        Found {
            leaf,
            revocation_list: self.request_revocation_list(authorities),
        }
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

/// What a certificate of the host's table says it is.
fn given(report: &Report<'_>, der: &[u8]) -> Option<EndorsementId> {
    let leaf = Leaf::parse(report.signing_key?, der).ok()?;
    Some(EndorsementId::of_leaf(&leaf))
}
