use super::{Desk, Step, ready_when_written};
use crate::{
    Grant, InitEntry, Plan, Refusal,
    store::{Halt, Key, Value, Writes},
};
use identity::DiskId;

impl Desk<'_> {
    /// `RegisterDisk` on the init path: the id is durable before any secret is sent, and every
    /// retry gets the same one.
    pub(super) fn register_init(&self, minted: DiskId) -> Result<Step, Halt> {
        let stored = self.snapshot.init()?;
        let entry = stored.unwrap_or(InitEntry {
            disk: minted,
            attester: self.peer.attester,
            finished: false,
        });
        if entry.attester != self.peer.attester || entry.finished {
            return Err(Refusal::InitBound {
                expected: entry.disk,
                got: minted,
            }
            .into());
        }
        let mut writes = Writes::default();
        writes.put(Key::Init, stored.map(Value::Init), Value::Init(entry));
        let disk = entry.disk;
        Ok(ready_when_written(writes, || {
            Plan::new(None, Grant::Registered { disk })
        }))
    }
}
