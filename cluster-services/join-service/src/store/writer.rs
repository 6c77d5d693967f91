//! The one writer: batches of decisions, each batch one durable transaction.

use super::{DecisionError, OBJECTS, StoreError, fail};
use admission::{Key, Objects, Persisted, Plan, Refusal, Snapshot, Step, Unsettled, Value, settle};
use redb::{Database, ReadableTable, StorageError, Table};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    iter,
    sync::{Arc, mpsc::Receiver},
};
use tokio::sync::oneshot;

/// A decision as a function of what the store holds.
type Decide = Box<dyn Fn(&Snapshot) -> Result<Step, Refusal> + Send>;

/// One decision to make, and whoever waits for it.
pub(super) struct Job {
    pub(super) decide: Decide,
    /// Called on the writer's thread.
    pub(super) answer: Box<dyn FnOnce(Result<Persisted, DecisionError>) + Send>,
}

/// What the writer is asked for.
pub(super) enum Request {
    Close(oneshot::Sender<()>),
    Decide(Job),
}

/// Decisions in one transaction. A commit takes about a millisecond, and what queues up meanwhile is
/// the next batch, so this bounds a transaction's size and nothing else.
const BATCH: usize = 256;

pub(super) struct Writer {
    database: Arc<Database>,
}

/// A decision, made but not durable yet.
type Decision = Result<Box<Plan>, Refusal>;

impl Writer {
    pub(super) const fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    pub(super) fn run(self, requests: &Receiver<Request>) {
        let mut closing = None;
        while closing.is_none()
            && let Ok(first) = requests.recv()
        {
            let mut batch = Vec::new();
            for request in iter::once(first).chain(requests.try_iter()).take(BATCH) {
                match request {
                    Request::Decide(job) => batch.push(job),
                    Request::Close(answer) => closing = Some(answer),
                }
            }
            metrics::histogram!("store_batch_size").record(batch.len() as f64);
            let decisions = self.transact(&batch).map_err(|error| fail(&error));
            answer(batch, decisions);
        }
        drop(self);
        if let Some(answer) = closing {
            // Nobody has to wait for it.
            let _gone = answer.send(());
        }
    }

    /// Makes all decisions of a batch in one transaction, which is durable when this returns `Ok`.
    fn transact(&self, batch: &[Job]) -> Result<Vec<Decision>, redb::Error> {
        let transaction = self.database.begin_write()?;
        let (decisions, dirty) = {
            let mut objects = Batch {
                table: transaction.open_table(OBJECTS)?,
                known: RefCell::default(),
                dirty: false,
            };
            let decisions = batch.iter().map(|job| decide(&job.decide, &mut objects));
            (decisions.collect::<Result<_, _>>()?, objects.dirty)
        };
        if dirty {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(decisions)
    }
}

fn answer(batch: Vec<Job>, decisions: Result<Vec<Decision>, StoreError>) {
    let decisions: Vec<_> = match decisions {
        Ok(decisions) => decisions
            .into_iter()
            .map(|decision| decision.map_err(DecisionError::Refused))
            .collect(),
        Err(error) => batch
            .iter()
            .map(|_| Err(DecisionError::Store(error)))
            .collect(),
    };
    for (job, decision) in batch.into_iter().zip(decisions) {
        (job.answer)(decision.map(|plan| plan.persisted()));
    }
}

/// Drives the core until it has a plan or refuses.
fn decide(decide: &Decide, objects: &mut Batch<'_>) -> Result<Decision, redb::Error> {
    match settle(objects, decide) {
        Ok(plan) => Ok(Ok(plan)),
        Err(Unsettled::Refused(refusal)) => Ok(Err(refusal)),
        Err(Unsettled::Store(Fault::Corrupt(refusal))) => Ok(Err(refusal)),
        Err(Unsettled::Store(Fault::Database(error))) => Err(error),
    }
}

/// The objects of the store in the transaction of a batch.
struct Batch<'a> {
    table: Table<'a, &'static str, &'static [u8]>,
    /// What was read or put before: a decision reads most objects twice.
    known: RefCell<BTreeMap<Key, Option<Value>>>,
    /// Whether there is anything to commit.
    dirty: bool,
}

/// Why an object cannot be read or written: one bad object refuses one decision, a database that
/// fails fails the batch.
enum Fault {
    Corrupt(Refusal),
    Database(redb::Error),
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Self::Database(error.into())
    }
}

impl Objects for Batch<'_> {
    type Error = Fault;

    fn get(&self, key: &Key) -> Result<Option<Value>, Fault> {
        if let Some(known) = self.known.borrow().get(key) {
            return Ok(known.clone());
        }
        let value = self
            .table
            .get(key.to_string().as_str())?
            .map(|stored| serde_json::from_slice(stored.value()))
            .transpose()
            .map_err(|_| corrupt(key))?;
        self.known.borrow_mut().insert(key.clone(), value.clone());
        Ok(value)
    }

    fn put(&mut self, key: &Key, value: Value) -> Result<(), Fault> {
        let encoded = serde_json::to_vec(&value).map_err(|_| corrupt(key))?;
        self.table
            .insert(key.to_string().as_str(), encoded.as_slice())?;
        self.known.get_mut().insert(key.clone(), Some(value));
        self.dirty = true;
        Ok(())
    }
}

fn corrupt(key: &Key) -> Fault {
    Fault::Corrupt(Refusal::StoreCorrupt {
        key: key.to_string(),
    })
}
