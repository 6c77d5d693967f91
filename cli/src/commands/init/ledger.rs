//! `init.json` as a store of the admission core.

use admission::{
    Context, Key, OperatorAction, Persisted, Refusal, Snapshot, Step, Timestamp, Unsettled, Value,
    operate, settle,
};
use anyhow::{Result, bail};
use audit::RecordEvent;
use identity::KeyVersion;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::state::State;
use crate::{
    admit::{Journal, Ledger, now},
    documents,
};

/// The file and what it holds; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Book(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    state: State,
    objects: BTreeMap<Key, Value>,
    journal: Journal,
}

impl Book {
    pub(super) fn new(path: PathBuf, state: State, journal: Journal) -> Self {
        Self(Arc::new(Mutex::new(Held {
            path,
            objects: state.objects(),
            state,
            journal,
        })))
    }

    /// How far the init got.
    pub(super) fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// The operator has the result: the machine gets no key on this path any more.
    pub(super) fn finish(&self, key_version: KeyVersion) -> Result<()> {
        let context = Context {
            now: now(),
            key_version,
            live_until: None,
        };
        let mut held = self.lock();
        let settled =
            held.settle(&|snapshot| operate(&OperatorAction::FinishInit, &context, snapshot))?;
        let persisted = match settled {
            Ok(persisted) => persisted,
            Err(refusal) => bail!(refusal),
        };
        if let Some(event) = persisted.event() {
            held.journal.append(context.now, event)?;
        }
        drop(persisted.audited());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // A panic while holding the lock ends the command anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn settle(
        &mut self,
        decide: &dyn Fn(&Snapshot) -> Result<Step, Refusal>,
    ) -> Result<Result<Persisted, Refusal>> {
        // What a refused decision wrote before is forgotten with it.
        let mut objects = self.objects.clone();
        match settle(&mut objects, decide) {
            Ok(plan) => {
                let after = self.state.after(&objects);
                if after != self.state {
                    documents::replace(&self.path, &after)?;
                    self.state = after;
                }
                self.objects = objects;
                Ok(Ok(plan.persisted()))
            }
            Err(Unsettled::Refused(refusal)) => Ok(Err(refusal)),
            Err(Unsettled::Store(never)) => match never {},
        }
    }
}

impl Ledger for Book {
    fn settle(
        &mut self,
        decide: &dyn Fn(&Snapshot) -> Result<Step, Refusal>,
    ) -> Result<Result<Persisted, Refusal>> {
        self.lock().settle(decide)
    }

    fn audit(&self, now: Timestamp, event: &RecordEvent) -> Result<()> {
        self.lock().journal.append(now, event)
    }
}
