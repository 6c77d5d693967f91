//! The one writer: batches of decisions, each batch one durable transaction.

use super::{DecisionError, OBJECTS, StoreError, fail};
use admission::{Key, Persisted, Plan, Refusal, Snapshot, Step, Value, Write, WriteOutcome};
use redb::{Database, ReadableTable, Table};
use std::{
    iter,
    sync::{Arc, mpsc::Receiver},
};
use tokio::sync::oneshot;

/// A decision as a function of what the store holds.
type Decide = Box<dyn Fn(&Snapshot) -> Result<Step, Refusal> + Send>;

/// One decision to make, and whoever waits for it.
pub(super) struct Job {
    pub(super) decide: Decide,
    pub(super) answer: oneshot::Sender<Result<Persisted, DecisionError>>,
}

/// What the writer is asked for.
pub(super) enum Request {
    Close(oneshot::Sender<()>),
    Decide(Job),
}

/// Decisions in one transaction. A commit takes about a millisecond, and what queues up meanwhile is
/// the next batch, so this bounds a transaction's size and nothing else.
const BATCH: usize = 256;

/// Rounds of one decision. The longest of the core has three; more than this is a bug.
const MAX_ROUNDS: usize = 32;

pub(super) struct Writer {
    database: Arc<Database>,
}

type Objects<'a> = Table<'a, &'static str, &'static [u8]>;

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
        let mut dirty = false;
        let mut decisions = Vec::with_capacity(batch.len());
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            for job in batch {
                decisions.push(settle(&job.decide, &mut objects, &mut dirty)?);
            }
        }
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
        // Whoever asked may have gone; the records stay, and the next try continues from them.
        let _gone = job.answer.send(decision.map(|plan| plan.persisted()));
    }
}

/// Drives the core until it has a plan or refuses (`admission::Step` has the loop).
fn settle(
    decide: &Decide,
    objects: &mut Objects<'_>,
    dirty: &mut bool,
) -> Result<Decision, redb::Error> {
    let mut snapshot = Snapshot::new();
    for _ in 0..MAX_ROUNDS {
        match decide(&snapshot) {
            Ok(Step::Ready(plan)) => return Ok(Ok(plan)),
            Ok(Step::Read(keys)) => {
                for key in keys {
                    match read(objects, &key)? {
                        Ok(value) => snapshot.insert(key, value),
                        Err(corrupt) => return Ok(Err(corrupt)),
                    }
                }
            }
            Ok(Step::Write(writes)) => {
                for write in writes {
                    match apply(objects, &write)? {
                        Ok(WriteOutcome::Apply) => *dirty = true,
                        Ok(WriteOutcome::Equal) => {}
                        Ok(WriteOutcome::Conflict) => break,
                        Err(corrupt) => return Ok(Err(corrupt)),
                    }
                }
                snapshot = Snapshot::new();
            }
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    Ok(Err(Refusal::StoreCorrupt {
        key: "a decision that never ends".into(),
    }))
}

fn apply(
    objects: &mut Objects<'_>,
    write: &Write,
) -> Result<Result<WriteOutcome, Refusal>, redb::Error> {
    let stored = match read(objects, &write.key)? {
        Ok(stored) => stored,
        Err(corrupt) => return Ok(Err(corrupt)),
    };
    let outcome = write.against(stored.as_ref());
    if outcome == WriteOutcome::Apply {
        let Ok(value) = serde_json::to_vec(&write.value) else {
            return Ok(Err(corrupt(&write.key)));
        };
        objects.insert(write.key.to_string().as_str(), value.as_slice())?;
    }
    Ok(Ok(outcome))
}

fn read(objects: &Objects<'_>, key: &Key) -> Result<Result<Option<Value>, Refusal>, redb::Error> {
    let Some(stored) = objects.get(key.to_string().as_str())? else {
        return Ok(Ok(None));
    };
    let value = serde_json::from_slice(stored.value());
    Ok(value.map(Some).map_err(|_| corrupt(key)))
}

fn corrupt(key: &Key) -> Refusal {
    Refusal::StoreCorrupt {
        key: key.to_string(),
    }
}
