//! Certificates and revocation lists in a folder.

use crate::{AuthoritySet, EndorsementId};
use snp::{Authorities, MAX_REVOCATION_LIST, Period, RevocationList, UnixTime};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};
use thiserror::Error;
use tracing::warn;

/// The largest certificate kept, in bytes. AMD's have 1.4 KiB.
pub(crate) const MAX_LEAF: usize = 8 * 1024;

/// Suffix of complete files. Others are of writers that died, or not ours.
const SUFFIX: &str = ".der";
/// How names of revocation lists begin.
const LIST: &str = "crl-";
/// Suffix of files being written.
const TEMPORARY: &str = ".tmp";

/// A temporary file older than this has no writer any more.
const ABANDONED_SECONDS: u64 = 3600;

/// Why the folder cannot be used. Class: unavailable.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The folder cannot be made or listed.
    #[error("folder `{path}`")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A folder of certificates, one file each, named after what they are. Several processes may use it
/// at a time: files appear and disappear whole.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    max_files: usize,
    authorities: AuthoritySet,
    read: Mutex<Cache>,
}

/// Files that were read and verified.
#[derive(Debug, Default)]
struct Cache {
    leaves: HashMap<EndorsementId, Vec<u8>>,
    lists: HashMap<[u8; 32], List>,
}

#[derive(Clone, Debug)]
struct List {
    der: Vec<u8>,
    period: Period,
    /// The file when it was last looked into. Another process may put a newer list there.
    seen: Option<Stamp>,
}

/// What differs once a file was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: SystemTime,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            modified: metadata.modified().ok()?,
        })
    }
}

impl Store {
    /// Opens the folder, which is made if it is not there. Beyond `max_files` the oldest certificates
    /// go. Revocation lists stay: there is one for each root, and anybody who can name a chip can have
    /// the folder filled with certificates.
    ///
    /// # Errors
    /// [`StoreError::Folder`].
    pub fn open(
        folder: &Path,
        max_files: usize,
        authorities: AuthoritySet,
    ) -> Result<Self, StoreError> {
        let store = Self {
            folder: folder.to_owned(),
            max_files,
            authorities,
            read: Mutex::default(),
        };
        fs::create_dir_all(folder)
            .and_then(|()| store.prune())
            .map_err(|source| StoreError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        Ok(store)
    }

    /// Whose certificates are kept.
    #[must_use]
    pub fn authorities(&self) -> &AuthoritySet {
        &self.authorities
    }

    /// A certificate. A file that is broken, or holds something else, counts as missing.
    #[must_use]
    pub fn leaf(&self, id: &EndorsementId, now: UnixTime) -> Option<Vec<u8>> {
        if let Some(der) = self.cache().leaves.get(id) {
            return Some(der.clone());
        }
        let path = self.folder.join(id.file_name());
        let der = read_bounded(&path, MAX_LEAF)?;
        if let Err(error) = self.authorities.check(id, &der, now) {
            warn_ignored(&path, &error);
            return None;
        }
        self.remember(*id, der.clone());
        Some(der)
    }

    /// Keeps a certificate that was verified.
    pub(crate) fn put_leaf(&self, id: &EndorsementId, der: &[u8]) -> Result<(), StoreError> {
        // First in memory: a full disk costs the next start a request, not this one.
        self.remember(*id, der.to_vec());
        self.put(&id.file_name(), der)
    }

    /// The revocation list of a root, if one is in force at `now`.
    #[must_use]
    pub fn revocation_list(&self, authorities: &Authorities, now: UnixTime) -> Option<Vec<u8>> {
        self.list_in_force(authorities, now).map(|list| list.der)
    }

    /// Keeps a revocation list that was verified. An older list never replaces a newer one, so that
    /// nobody who answers in AMD's place takes back a revocation.
    pub(crate) fn put_revocation_list(
        &self,
        authorities: &Authorities,
        list: &RevocationList,
        der: &[u8],
        now: UnixTime,
    ) -> Result<(), StoreError> {
        let period = list.period();
        let known = self.list_in_force(authorities, now);
        if known.is_some_and(|known| known.period.from > period.from) {
            return Ok(());
        }
        let list = List {
            der: der.to_vec(),
            period,
            seen: None,
        };
        self.cache().lists.insert(*authorities.root(), list);
        self.put(&list_name(authorities), der)
    }

    /// The newest list in force, of those in memory and on disk.
    fn list_in_force(&self, authorities: &Authorities, now: UnixTime) -> Option<List> {
        let in_force = |list: &List| list.period.from <= now && now <= list.period.until;
        let known = self.cache().lists.get(authorities.root()).cloned();
        let known = known.filter(in_force);
        let path = self.folder.join(list_name(authorities));
        let seen = Stamp::of(&path);
        if known.as_ref().is_some_and(|known| known.seen == seen) {
            return known;
        }
        let found = read_list(&path, authorities, now);
        let newest = match (known, found) {
            (Some(known), Some(found)) if found.period.from < known.period.from => known,
            (known, found) => found.or(known)?,
        };
        let newest = List { seen, ..newest };
        let mut cache = self.cache();
        cache.lists.insert(*authorities.root(), newest.clone());
        Some(newest)
    }

    /// Bounded by the number of files; what is forgotten is read again.
    fn remember(&self, id: EndorsementId, der: Vec<u8>) {
        let mut cache = self.cache();
        if cache.leaves.len() >= self.max_files {
            cache.leaves.clear();
        }
        cache.leaves.insert(id, der);
    }

    fn put(&self, name: &str, der: &[u8]) -> Result<(), StoreError> {
        let path = self.folder.join(name);
        self.write(&path, der)
            .map_err(|source| StoreError::Write { path, source })?;
        self.prune().map_err(|source| StoreError::Folder {
            path: self.folder.clone(),
            source,
        })
    }

    /// A crash leaves the old file or the new one, whole.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{}-{unique}{TEMPORARY}", process::id());
        let temporary = self.folder.join(temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Removes the oldest certificates beyond the limit, and what dead writers left.
    fn prune(&self) -> io::Result<()> {
        let mut files = self.files()?;
        files.retain(|(_, path)| !is_list(path));
        files.sort();
        let surplus = files.len().saturating_sub(self.max_files);
        for (_, path) in files.iter().take(surplus) {
            ignore_missing(fs::remove_file(path))?;
        }
        Ok(())
    }

    /// Complete files with their times; removes abandoned ones.
    fn files(&self) -> io::Result<Vec<(SystemTime, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else {
                continue;
            };
            let age = modified.elapsed().unwrap_or_default().as_secs();
            if name.ends_with(SUFFIX) {
                files.push((modified, entry.path()));
            } else if name.ends_with(TEMPORARY) && age > ABANDONED_SECONDS {
                ignore_missing(fs::remove_file(entry.path()))?;
            }
        }
        Ok(files)
    }

    /// A panic while it was held leaves a map that is whole: only inserts happen under the lock.
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The list in a file, if it is one of this root and in force.
fn read_list(path: &Path, authorities: &Authorities, now: UnixTime) -> Option<List> {
    let der = read_bounded(path, MAX_REVOCATION_LIST)?;
    match RevocationList::authenticate(&der, authorities, now) {
        Ok(list) => Some(List {
            der,
            period: list.period(),
            seen: None,
        }),
        Err(error) => {
            warn_ignored(path, &error);
            None
        }
    }
}

fn is_list(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(LIST)
}

fn list_name(authorities: &Authorities) -> String {
    let root = authorities.root().get(..8).unwrap_or_default();
    format!(
        "{LIST}{}-{}{SUFFIX}",
        authorities.product(),
        hex::encode(root)
    )
}

/// The whole file; `None` if it is not there, too large or unreadable.
fn read_bounded(path: &Path, max: usize) -> Option<Vec<u8>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn_ignored(path, &error);
            return None;
        }
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX);
    match file.take(limit.saturating_add(1)).read_to_end(&mut bytes) {
        Ok(length) if length <= max => Some(bytes),
        Ok(_) => {
            warn!(path = %path.display(), max, "file ignored: too large");
            None
        }
        Err(error) => {
            warn_ignored(path, &error);
            None
        }
    }
}

fn warn_ignored(path: &Path, error: &dyn std::error::Error) {
    let cause = error.source().map(ToString::to_string);
    warn!(path = %path.display(), %error, cause, "file ignored");
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
