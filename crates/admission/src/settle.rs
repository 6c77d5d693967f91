//! The loop around a decision: once as rounds that a store drives, once whole for stores that hold
//! still during it.

use crate::{Key, Plan, Refusal, Snapshot, Step, Value, Write, WriteOutcome};
use alloc::{boxed::Box, collections::BTreeMap};
use core::convert::Infallible;

/// Rounds of one decision. The longest has three, and one more for each rival that changes an object
/// in between; more than this is a bug.
const MAX_ROUNDS: usize = 32;

/// A decision under way. Whoever drives it answers [`Step::Read`] with [`Self::read`] and applies
/// [`Step::Write`] up to the first conflict; [`Step::Ready`] ends it.
#[derive(Debug)]
pub struct Rounds<D> {
    decide: D,
    snapshot: Snapshot,
    left: usize,
}

impl<D: Fn(&Snapshot) -> Result<Step, Refusal>> Rounds<D> {
    /// Begins with nothing read.
    pub const fn new(decide: D) -> Self {
        Self {
            decide,
            snapshot: Snapshot::new(),
            left: MAX_ROUNDS,
        }
    }

    /// What to do next. After a write everything is read afresh.
    ///
    /// # Errors
    /// When the core refuses, or the decision does not end.
    pub fn step(&mut self) -> Result<Step, Refusal> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| Refusal::StoreCorrupt {
                key: "a decision that never ends".into(),
            })?;
        let step = (self.decide)(&self.snapshot)?;
        if matches!(step, Step::Write(_)) {
            self.snapshot = Snapshot::new();
        }
        Ok(step)
    }

    /// Adds what the store holds under `key`.
    pub fn read(&mut self, key: Key, value: Option<Value>) {
        self.snapshot.insert(key, value);
    }
}

/// Objects that nobody else changes while a decision is made: a transaction, or a file under a lock.
pub trait Objects {
    /// Why an object cannot be read or written.
    type Error;

    /// The object under `key`, with what was put before.
    ///
    /// # Errors
    /// When the store cannot say; the decision ends.
    fn get(&self, key: &Key) -> Result<Option<Value>, Self::Error>;

    /// Puts an object, whatever is there.
    ///
    /// # Errors
    /// When the store cannot take it; the decision ends.
    fn put(&mut self, key: &Key, value: Value) -> Result<(), Self::Error>;
}

/// Why a decision ended without a plan.
#[derive(Debug)]
pub enum Unsettled<E> {
    /// The core refused. What was put before is a state that heals.
    Refused(Refusal),
    /// The store failed.
    Store(E),
}

/// Drives `decide` until it has a plan or refuses. Nothing is durable by that: the caller commits,
/// and only then says [`Plan::persisted`].
///
/// # Errors
/// [`Unsettled`].
pub fn settle<S: Objects>(
    objects: &mut S,
    decide: impl Fn(&Snapshot) -> Result<Step, Refusal>,
) -> Result<Box<Plan>, Unsettled<S::Error>> {
    let mut rounds = Rounds::new(decide);
    loop {
        match rounds.step().map_err(Unsettled::Refused)? {
            Step::Ready(plan) => return Ok(plan),
            Step::Read(keys) => {
                for key in keys {
                    let value = objects.get(&key).map_err(Unsettled::Store)?;
                    rounds.read(key, value);
                }
            }
            Step::Write(writes) => apply(objects, writes).map_err(Unsettled::Store)?,
        }
    }
}

/// Applies writes up to the first conflict, which the next round decides about.
fn apply<S: Objects>(
    objects: &mut S,
    writes: impl IntoIterator<Item = Write>,
) -> Result<(), S::Error> {
    for write in writes {
        match write.against(objects.get(&write.key)?.as_ref()) {
            WriteOutcome::Apply => objects.put(&write.key, write.value)?,
            WriteOutcome::Equal => {}
            WriteOutcome::Conflict => break,
        }
    }
    Ok(())
}

impl Objects for BTreeMap<Key, Value> {
    type Error = Infallible;

    fn get(&self, key: &Key) -> Result<Option<Value>, Infallible> {
        Ok(Self::get(self, key).cloned())
    }

    fn put(&mut self, key: &Key, value: Value) -> Result<(), Infallible> {
        self.insert(key.clone(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};
    use core::cell::Cell;
    use identity::DiskId;

    const DISK: DiskId = DiskId::from_bytes([1; 16]);

    fn create(key: Key) -> Write {
        Write {
            key,
            expect: None,
            value: Value::Attester(DISK),
        }
    }

    fn refuse() -> Result<Step, Refusal> {
        Err(Refusal::UnknownDisk { disk: DISK })
    }

    #[test]
    fn a_decision_that_never_ends_is_refused() {
        let mut objects = BTreeMap::new();
        let refused = settle(&mut objects, |_| Ok(Step::Read(vec![Key::Disk(DISK)])));
        let Err(Unsettled::Refused(Refusal::StoreCorrupt { key })) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(key, "a decision that never ends");
    }

    #[test]
    fn writes_stop_at_the_first_conflict_and_a_refusal_ends_it() {
        let taken = DiskId::from_bytes([2; 16]);
        let mut objects = BTreeMap::from([(Key::Disk(taken), Value::Attester(taken))]);
        let round = Cell::new(0);
        let refused = settle(&mut objects, |_| {
            round.set(round.get() + 1);
            let keys = [Key::Disk(DISK), Key::Disk(taken), Key::Init];
            match round.get() {
                1 => Ok(Step::Write(keys.map(create).into())),
                _ => refuse(),
            }
        });
        assert!(matches!(
            refused,
            Err(Unsettled::Refused(Refusal::UnknownDisk { .. }))
        ));
        assert_eq!(round.get(), 2);
        let keys: Vec<_> = objects.keys().cloned().collect();
        assert_eq!(keys, [Key::Disk(DISK), Key::Disk(taken)]);
    }
}
