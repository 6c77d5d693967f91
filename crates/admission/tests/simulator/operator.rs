use super::{
    Op,
    disk::SlotContent,
    world::{World, node_name},
};
use admission::{Adoption, Context, OperatorAction, Snapshot, Step, WriteOutcome, operate};
use identity::{DiskId, Generation, KeyVersion};

impl World {
    /// What operators do.
    pub(crate) fn operate(&mut self, op: &Op) {
        match *op {
            Op::Forget(n) => self.act(true, &OperatorAction::Forget { node: node_name(n) }),
            Op::AcceptGeneration { disk, generation } => {
                if let Some(disk) = self.minted_disk(disk) {
                    let generation = Generation(generation.into());
                    self.accepted.push(self.now);
                    self.act(true, &OperatorAction::AcceptGeneration { disk, generation });
                }
            }
            Op::OpenControlPlane(n) => {
                self.act(
                    true,
                    &OperatorAction::OpenControlPlane { node: node_name(n) },
                );
            }
            Op::Adopt(m) => {
                let disk = self
                    .machine(m)
                    .disk
                    .headers()
                    .next()
                    .map(|header| header.disk);
                if let Some(disk) = disk {
                    self.adopt(m, disk);
                }
            }
            Op::Rebind { disk, machine } => {
                let attester = self.machine(machine).attester;
                if let Some(disk) = self.minted_disk(disk) {
                    self.act(true, &OperatorAction::Rebind { disk, attester });
                }
            }
            Op::FinishInit(m) => self.finish_init(m),
            Op::SyncCli => {
                self.jobs.retain(super::job::Job::by_services);
                let init = self.cli.objects.get(&admission::Key::Init).cloned();
                self.cli = self.services.clone();
                if let Some(init) = init {
                    self.cli.objects.insert(admission::Key::Init, init);
                }
            }
            Op::Renew(d) => {
                if let Some(disk) = self.minted_disk(d) {
                    self.leases.insert(disk, self.now + 5);
                }
            }
            _ => {}
        }
    }

    /// The bootstrapper writes the first node's record and clears the header's flag, then the CLI
    /// closes the init.
    fn finish_init(&mut self, m: u8) {
        let handed_off = self.running(m).filter(|boot| boot.handed_off);
        let Some((disk, _)) = handed_off.and_then(|boot| boot.committed) else {
            return;
        };
        if !self
            .machine(m)
            .disk
            .headers()
            .any(|h| h.disk == disk && h.init_unfinished)
        {
            return;
        }
        self.adopt(m, disk);
        for slot in &mut self.machine(m).disk.0 {
            if let SlotContent::Header(header) = slot {
                header.init_unfinished = false;
            }
        }
        self.act(false, &OperatorAction::FinishInit);
    }

    fn adopt(&mut self, m: u8, disk: DiskId) {
        let machine = self.machine(m);
        let adoption = Adoption {
            disk,
            node: machine.name.clone(),
            role: machine.role,
            attester: machine.attester,
            generation: Generation(0),
        };
        self.act(true, &OperatorAction::Adopt(adoption));
    }

    pub(crate) fn act(&mut self, services: bool, action: &OperatorAction) {
        let context = Context {
            now: self.timestamp(),
            key_version: KeyVersion::FIRST,
            live_until: None,
        };
        let mut snapshot = Snapshot::new();
        loop {
            match operate(action, &context, &snapshot) {
                Ok(Step::Read(keys)) => {
                    for key in keys {
                        let value = self.store(services).objects.get(&key).cloned();
                        snapshot.insert(key, value);
                    }
                }
                Ok(Step::Write(writes)) => {
                    for write in &writes {
                        let now = self.now;
                        if self.store(services).apply(now, write) == WriteOutcome::Conflict {
                            return self.violate("no conflict alone", write.key.to_string());
                        }
                    }
                    snapshot = Snapshot::new();
                }
                Ok(Step::Ready(plan)) => {
                    let plan = plan.persisted();
                    self.audit.extend(plan.event().cloned());
                    drop(plan.audited());
                    return;
                }
                Err(refusal) => return self.note(format!("  operator: {refusal}")),
            }
        }
    }
}
