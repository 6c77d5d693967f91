use super::{
    Op, Scenario,
    disk::Disk,
    job::Job,
    machine::{Boot, Machine},
};
use admission::{Key, NodeRecord, Timestamp, Value, Write, WriteOutcome};
use audit::RecordEvent;
use identity::{DiskId, Generation, NodeName};
use std::collections::BTreeMap;

/// Everything there is.
pub(crate) struct World {
    pub(crate) transactions: bool,
    pub(crate) sev_snp: bool,
    /// What each boot got, by its store.
    pub(crate) released: BTreeMap<(bool, admission::BootId), (DiskId, admission::SealingKeyHash)>,
    pub(crate) now: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) services: Store,
    pub(crate) cli: Store,
    pub(crate) jobs: Vec<Job>,
    pub(crate) next_job: u64,
    pub(crate) next_disk: u8,
    pub(crate) next_boot: u8,
    pub(crate) minted: Vec<DiskId>,
    pub(crate) leases: BTreeMap<DiskId, u64>,
    pub(crate) audit: Vec<RecordEvent>,
    pub(crate) hand_offs: Vec<HandOff>,
    pub(crate) accepted: Vec<u64>,
    pub(crate) exchanged: bool,
    pub(crate) checked: (usize, usize, usize),
    pub(crate) log: Vec<String>,
    pub(crate) broken: Option<(&'static str, String)>,
}

/// A linearizable store that remembers everything it ever held.
#[derive(Default, Clone)]
pub(crate) struct Store {
    pub(crate) objects: BTreeMap<Key, Value>,
    pub(crate) history: Vec<(u64, Key, Value)>,
}

/// A node that unlocked its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandOff {
    pub(crate) disk: DiskId,
    pub(crate) generation: Generation,
    pub(crate) boot: admission::BootId,
    pub(crate) by_services: bool,
}

/// A broken invariant.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) detail: String,
    pub(crate) log: Vec<String>,
}

impl World {
    /// Four machines. Machine 0 boots an image for both roles, the others one for workers. Machine 3
    /// has the TPM of machine 1: a clone that the host made.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let machine = |i: u8, tpm: u8| Machine::new(i, (!scenario.sev_snp).then_some(tpm));
        Self {
            transactions: scenario.transactions,
            sev_snp: scenario.sev_snp,
            released: BTreeMap::new(),
            now: 1000,
            machines: vec![machine(0, 0), machine(1, 1), machine(2, 2), machine(3, 1)],
            services: Store::default(),
            cli: Store::default(),
            jobs: Vec::new(),
            next_job: 0,
            next_disk: 0,
            next_boot: 0,
            minted: Vec::new(),
            leases: BTreeMap::new(),
            audit: Vec::new(),
            hand_offs: Vec::new(),
            accepted: Vec::new(),
            exchanged: false,
            checked: (0, 0, 0),
            log: Vec::new(),
            broken: None,
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Violation> {
        self.now += 1;
        self.note(format!("{} {op:?}", self.now));
        match *op {
            Op::PowerOn(m) => self.power_on(m),
            Op::PowerCut(m) => self.machine(m).boot = None,
            Op::TornCut { machine, cleartext } => self.torn_cut(machine, cleartext),
            Op::Step(m) => self.step(m),
            Op::Timeout(m) => self.timeout(m),
            Op::Push(m) => self.machine(m).push = true,
            Op::Advance(j) => self.advance(j),
            Op::Drop(j) => self.drop_job(j),
            Op::Duplicate(j) => self.duplicate(j),
            Op::Wait(seconds) => self.now += u64::from(seconds),
            host_or_operator => {
                self.exchanged |= matches!(op, Op::Restore(_) | Op::CopyDisk { .. });
                self.tamper(&host_or_operator);
                self.operate(&host_or_operator);
            }
        }
        self.check()
    }

    fn check(&mut self) -> Result<(), Violation> {
        let shape = (
            self.services.history.len(),
            self.cli.history.len(),
            self.hand_offs.len(),
        );
        let changed = std::mem::replace(&mut self.checked, shape) != shape;
        let broken = self.broken.take();
        let broken = broken.or_else(|| changed.then(|| self.first_broken_invariant())?);
        match broken {
            None => Ok(()),
            Some((invariant, detail)) => Err(Violation {
                invariant,
                detail,
                log: self.log.clone(),
            }),
        }
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, detail: String) {
        self.broken.get_or_insert((invariant, detail));
    }

    pub(crate) fn note(&mut self, line: String) {
        self.log.push(line);
    }

    pub(crate) fn machine(&mut self, m: u8) -> &mut Machine {
        let count = self.machines.len();
        &mut self.machines[usize::from(m) % count]
    }

    pub(crate) fn running(&mut self, m: u8) -> Option<&mut Boot> {
        self.machine(m).boot.as_mut()
    }

    pub(crate) fn mint(&mut self) -> DiskId {
        self.next_disk += 1;
        let id = DiskId::from_random([self.next_disk; 16]);
        self.minted.push(id);
        id
    }

    pub(crate) fn minted_disk(&self, n: u8) -> Option<DiskId> {
        let count = self.minted.len().max(1);
        self.minted.get(usize::from(n) % count).copied()
    }

    pub(crate) const fn timestamp(&self) -> Timestamp {
        Timestamp(self.now)
    }
}

impl Store {
    pub(crate) fn apply(&mut self, now: u64, write: &Write) -> WriteOutcome {
        let outcome = write.against(self.objects.get(&write.key));
        if outcome == WriteOutcome::Apply {
            self.objects.insert(write.key.clone(), write.value.clone());
            self.history
                .push((now, write.key.clone(), write.value.clone()));
        }
        outcome
    }

    pub(crate) fn record(&self, disk: DiskId) -> Option<&NodeRecord> {
        match self.objects.get(&Key::Record(disk)) {
            Some(Value::Record(record)) => Some(record),
            _ => None,
        }
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &NodeRecord> {
        self.objects.values().filter_map(|value| match value {
            Value::Record(record) => Some(record),
            _ => None,
        })
    }

    /// Whether this is the store of an operator whose init has begun and is not over.
    pub(crate) fn init_is_open(&self) -> bool {
        matches!(self.objects.get(&Key::Init), Some(Value::Init(init)) if !init.finished)
    }

    /// What was stored under `key` at any moment from `since` on, the state at `since` included.
    pub(crate) fn held_since(&self, key: &Key, since: u64) -> impl Iterator<Item = &Value> {
        let of_key = self
            .history
            .iter()
            .filter(move |h| h.1 == *key)
            .collect::<Vec<_>>();
        let first = of_key.iter().rposition(|h| h.0 <= since).unwrap_or(0);
        of_key.into_iter().skip(first).map(|h| &h.2)
    }
}

pub(crate) fn node_name(i: u8) -> NodeName {
    format!("node-{}", i % 4).parse().unwrap()
}

impl Machine {
    /// A machine with this TPM, or a bare SEV-SNP guest.
    pub(crate) fn new(i: u8, tpm: Option<u8>) -> Self {
        let attester = tpm.map_or_else(
            || "sev-snp".into(),
            |tpm| format!("{:064x}", u32::from(tpm) + 1),
        );
        Self {
            attester: attester.parse().unwrap(),
            name: node_name(i),
            role: identity::Role::Worker,
            roles: if i == 0 {
                [identity::Role::ControlPlane, identity::Role::Worker].into()
            } else {
                [identity::Role::Worker].into()
            },
            disk: Disk::BLANK,
            saved: None,
            push: false,
            boot: None,
            exits: Vec::new(),
        }
    }
}
