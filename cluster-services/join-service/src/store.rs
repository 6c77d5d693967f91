//! The store: records, claims and serials in one redb file.
//!
//! One thread writes. It takes the decisions that queue up, lets the admission core make each of them
//! on what the transaction shows, and commits them all at once: one durable write for a batch, and
//! nobody learns of a decision before it is on disk. Readers see committed state only.

mod backup;
mod writer;

use admission::{
    BootClaim, NodeRecord, Persisted, Refusal, SerialRefusal, Snapshot, Step, Value, Version,
};
use identity::ClusterId;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::{
    fs, io,
    ops::Range,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
};
use tokio::sync::oneshot;
use writer::{Job, Request, Writer};

/// Objects of the admission core by their names, as JSON.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");

/// The highest serial seen of each document, and the SHA-256 of what had it.
const DOCUMENTS: TableDefinition<'_, &str, (u64, [u8; 32])> = TableDefinition::new("documents");

/// What this file is.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const FORMAT: (&str, &[u8]) = ("format", b"constellation-join-store-v2");
const CLUSTER: &str = "cluster";

/// redb would use up to a gibibyte; the records of a thousand nodes are about one mebibyte, and claims of
/// earlier boots are not read again.
const CACHE: usize = 4 << 20;

/// Decisions that wait for the disk.
const QUEUE: usize = 1024;

/// The store. Clones use the same file.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    queue: SyncSender<Request>,
    path: Arc<Path>,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file belongs to another cluster.
    #[error("`{}` is the store of another cluster than {expected}", path.display())]
    Cluster {
        /// The file.
        path: PathBuf,
        /// The configured cluster.
        expected: ClusterId,
    },
    /// The file is not a store, damaged, or in use.
    #[error("cannot open the store `{}`", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What redb said.
        source: Box<redb::Error>,
    },
    /// The file is a redb file of something else.
    #[error("`{}` is not a join service's store of this version", .0.display())]
    Format(PathBuf),
    /// The file's mode cannot be set, or there is no thread for the writer.
    #[error("cannot set up the store `{}`", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why there is no decision, no list and no copy. The writer logged the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// More decisions queue up than the disk takes.
    #[error("the store is behind")]
    Behind,
    /// The store failed; nothing of the batch is stored.
    #[error("the store failed")]
    Failed,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// The admission core refused.
    #[error("refused by the admission core")]
    Refused(#[source] Refusal),
    /// The store has no answer.
    #[error("no decision")]
    Store(#[source] StoreError),
}

/// Why documents may not come into force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SerialError {
    /// One of them is not newer.
    #[error("not newer than what was in force")]
    Refused(#[source] SerialRefusal),
    /// The serials cannot be stored.
    #[error("cannot store the serials")]
    Store(#[source] Box<redb::Error>),
}

impl Store {
    /// Opens the file, or makes it for this cluster.
    ///
    /// # Errors
    /// [`OpenError`]; a file that is not ours is left as it is.
    pub fn open(path: &Path, cluster: ClusterId) -> Result<Self, OpenError> {
        let failed = |source: redb::Error| OpenError::Database {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let system = |source| OpenError::System {
            path: path.to_owned(),
            source,
        };
        let database = Builder::new()
            .set_cache_size(CACHE)
            .create(path)
            .map_err(|error| failed(error.into()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(system)?;
        let (format, owner) = prepare(&database, cluster).map_err(failed)?;
        if format != FORMAT.1 {
            return Err(OpenError::Format(path.to_owned()));
        }
        if owner != cluster.as_bytes() {
            return Err(OpenError::Cluster {
                path: path.to_owned(),
                expected: cluster,
            });
        }
        let database = Arc::new(database);
        let (queue, jobs) = sync_channel(QUEUE);
        let writer = Writer::new(Arc::clone(&database));
        thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(&jobs))
            .map_err(system)?;
        Ok(Self {
            database,
            queue,
            path: path.into(),
        })
    }

    /// Makes one decision on durable state and makes what it writes durable. `decide` is
    /// `admission::decide` or `admission::operate` with everything but the snapshot.
    ///
    /// # Errors
    /// [`DecisionError`]: the core's refusal, or a store without an answer.
    pub async fn settle<D>(&self, decide: D) -> Result<Persisted, DecisionError>
    where
        D: Fn(&Snapshot) -> Result<Step, Refusal> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // Whoever asked may give up; the records stay, and the next try continues from them.
        self.settle_then(decide, |decided| drop(answer.send(decided)));
        let gone = Err(DecisionError::Store(StoreError::Failed));
        answered.await.unwrap_or(gone)
    }

    /// [`Self::settle`], which calls `then` on the store's thread: it must neither wait nor work. The
    /// caller's thread need not wake up in between.
    pub fn settle_then<D>(
        &self,
        decide: D,
        then: impl FnOnce(Result<Persisted, DecisionError>) + Send + 'static,
    ) where
        D: Fn(&Snapshot) -> Result<Step, Refusal> + Send + 'static,
    {
        let job = Job {
            decide: Box::new(decide),
            answer: Box::new(then),
        };
        let (error, request) = match self.queue.try_send(Request::Decide(job)) {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => (StoreError::Behind, request),
            Err(TrySendError::Disconnected(request)) => (StoreError::Failed, request),
        };
        if let Request::Decide(job) = request {
            (job.answer)(Err(DecisionError::Store(error)));
        }
    }

    /// Closes the file, provided that this is the last clone; nothing is decided any more.
    pub async fn close(self) {
        let (answer, answered) = oneshot::channel();
        if self.queue.try_send(Request::Close(answer)).is_ok() {
            // An error means that the writer has gone before.
            let _gone = answered.await;
        }
    }

    /// All records, tombstones included, in the order of their disk ids.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the file cannot be read.
    pub fn nodes(&self) -> Result<Vec<NodeRecord>, StoreError> {
        let record = |value| match value {
            Value::Record(record) => Some(record),
            _ => None,
        };
        // `admission::Key::Record` is stored as `node-<uuid>`.
        self.read_objects("node-".."node.", record)
            .map_err(|error| fail(&error))
    }

    /// What boots without a latch got, as committed.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the file cannot be read.
    pub fn spent_boots(&self) -> Result<Vec<BootClaim>, StoreError> {
        let claim = |value| match value {
            Value::Boot(claim) => Some(claim),
            _ => None,
        };
        // `admission::Key::Boot` is stored as `boot-<hash>`.
        let claims = self.read_objects("boot-".."boot.", claim);
        let mut claims = claims.map_err(|error| fail(&error))?;
        claims.retain(|claim| !claim.attester.names_machine());
        Ok(claims)
    }

    /// Stores the serials of documents that are about to come into force, all or none.
    ///
    /// # Errors
    /// [`SerialError`] when one of them is below the stored one, or the same for another content; the
    /// documents must not come into force then.
    pub fn raise_serials(&self, versions: &[Version]) -> Result<(), SerialError> {
        self.write_versions(versions)
            .map_err(|source| SerialError::Store(Box::new(source)))?
    }

    /// The objects of one kind, by the names that they have in common; `.` follows `-` in ASCII.
    fn read_objects<T>(
        &self,
        names: Range<&str>,
        pick: impl Fn(Value) -> Option<T>,
    ) -> Result<Vec<T>, redb::Error> {
        let table = self.database.begin_read()?.open_table(OBJECTS)?;
        let mut objects = Vec::new();
        for entry in table.range(names)? {
            let (key, value) = entry?;
            match serde_json::from_slice(value.value()).ok().and_then(&pick) {
                Some(object) => objects.push(object),
                None => tracing::error!(object = key.value(), "not an object of ours"),
            }
        }
        Ok(objects)
    }

    fn write_versions(&self, versions: &[Version]) -> Result<Result<(), SerialError>, redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(DOCUMENTS)?;
            for version in versions {
                let stored = table.get(version.document)?.map(|stored| stored.value());
                if let Err(error) = version.follows(stored) {
                    // Dropping the transaction undoes what this loop wrote.
                    return Ok(Err(SerialError::Refused(error)));
                }
                table.insert(version.document, (version.serial, version.digest))?;
            }
        }
        transaction.commit()?;
        Ok(Ok(()))
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Logs what redb said and says only that the store failed.
fn fail(error: &redb::Error) -> StoreError {
    metrics::counter!("store_failed_total").increment(1);
    tracing::error!(error = %service_runtime::Chain(error), "the store failed");
    StoreError::Failed
}

/// Makes the tables of a new file, and gives the format and cluster of any file.
fn prepare(database: &Database, cluster: ClusterId) -> Result<(Vec<u8>, Vec<u8>), redb::Error> {
    let transaction = database.begin_write()?;
    let is_new = transaction.list_tables()?.next().is_none();
    let found = {
        let mut meta = transaction.open_table(META)?;
        if is_new {
            meta.insert(FORMAT.0, FORMAT.1)?;
            meta.insert(CLUSTER, cluster.as_bytes().as_slice())?;
        }
        let get = |key| {
            meta.get(key)
                .map(|value| value.map(|value| value.value().to_vec()))
        };
        (
            get(FORMAT.0)?.unwrap_or_default(),
            get(CLUSTER)?.unwrap_or_default(),
        )
    };
    if found.0 == FORMAT.1 {
        transaction.open_table(OBJECTS)?;
        transaction.open_table(DOCUMENTS)?;
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
