use super::{
    job::Job,
    world::{Store, World},
};
use admission::{Key, RecordState, Value};
use audit::Action;
use identity::{DiskId, Generation};
use std::collections::BTreeMap;

type Broken = Option<(&'static str, String)>;

impl World {
    /// Checked after every event.
    pub(crate) fn first_broken_invariant(&self) -> Broken {
        [&self.services, &self.cli]
            .into_iter()
            .find_map(|store| {
                invariant_one_committed_disk_per_node(store)
                    .or_else(|| invariant_tombstones_are_final(store))
                    .or_else(|| invariant_boot_and_disk_claims_are_final(store))
            })
            .or_else(|| self.invariant_generations_never_decrease())
            .or_else(|| self.invariant_one_boot_per_generation())
    }

    /// Recorded generations never decrease, but by `accept-generation`.
    fn invariant_generations_never_decrease(&self) -> Broken {
        let mut seen: BTreeMap<DiskId, Generation> = BTreeMap::new();
        for (at, _, value) in &self.services.history {
            let Value::Record(record) = value else {
                continue;
            };
            let before = seen.insert(record.disk, record.generation);
            let accepted = self.accepted.contains(at);
            if before.is_some_and(|b| b > record.generation) && !accepted {
                return broken("recorded generations never decrease", record.disk);
            }
        }
        None
    }

    /// Two boots never hold the same generation of one disk: one of them was not acknowledged.
    fn invariant_one_boot_per_generation(&self) -> Broken {
        let mut seen = BTreeMap::new();
        let accepted = !self.accepted.is_empty();
        for h in self.hand_offs.iter().filter(|h| h.by_services && !accepted) {
            let before = seen.insert((h.disk, h.generation), h.boot);
            if before.is_some_and(|boot| boot != h.boot) {
                return broken("never two live keys for one record", h.disk);
            }
        }
        None
    }

    /// When a ticket goes out: appraised facts match the record, all claims were durable at once
    /// before, the audit line is there, the disk was not dead when the decision began.
    pub(crate) fn check_release(&mut self, job: &Job, disk: DiskId, since: u64, line: usize) {
        let audited = line > 0
            && self
                .audit
                .get(line - 1)
                .is_some_and(|event| event.action == Action::Release && event.disk == Some(disk));
        if !audited {
            self.violate("a release is always audited first", disk.to_string());
        }
        let got = (disk, job.peer.sealing_key);
        let boot = (job.by_services(), job.peer.boot);
        if *self.released.entry(boot).or_insert(got) != got {
            self.violate("one release for each boot", disk.to_string());
        }
        let store = self.store(job.by_services()).clone();
        let broken = invariant_release_has_claims(&store, job, disk, since)
            .or_else(|| invariant_not_released_when_dead(&store, disk, since));
        if let Some((invariant, detail)) = broken {
            self.violate(invariant, detail);
        }
    }

    /// When a Commit is acknowledged: the record holds it.
    pub(crate) fn check_commit(&mut self, job: &Job, since: u64) {
        let store = self.store(job.by_services()).clone();
        let disk = job.request.disk();
        let admission::Request::Commit { generation, .. } = job.request else {
            return;
        };
        let durable = store.held_since(&Key::Record(disk), since).any(|value| {
            matches!(value, Value::Record(r) if r.committed == Some(job.peer.boot) && r.attester == job.peer.attester)
        });
        let ever = store.history.iter().any(|(_, _, value)| {
            matches!(value, Value::Record(r) if r.disk == disk && r.generation == generation)
        });
        if !durable || !ever {
            self.violate("an acknowledged Commit is durable", disk.to_string());
        }
        if let Some((invariant, detail)) = invariant_not_released_when_dead(&store, disk, since) {
            self.violate(invariant, detail);
        }
    }
}

/// One machine and one name have at most one committed, living disk.
fn invariant_one_committed_disk_per_node(store: &Store) -> Broken {
    let mut attesters = BTreeMap::new();
    let mut names = BTreeMap::new();
    for record in store.records().filter(|r| r.state == RecordState::Active) {
        let by_attester = match record.attester.names_machine() {
            true => attesters.insert(record.attester, record.disk),
            false => None,
        };
        let by_name = names.insert(record.node.clone(), record.disk);
        if by_attester.or(by_name).is_some() {
            return broken(
                "one committed disk for each machine and each name",
                record.disk,
            );
        }
    }
    None
}

/// Dead ids stay dead.
fn invariant_tombstones_are_final(store: &Store) -> Broken {
    let mut dead = BTreeMap::new();
    for (_, _, value) in &store.history {
        let Value::Record(record) = value else {
            continue;
        };
        if dead.get(&record.disk) == Some(&true) && !record.is_tombstone() {
            return broken("a tombstoned disk never lives again", record.disk);
        }
        dead.insert(record.disk, record.is_tombstone());
    }
    None
}

/// A boot never changes its disk, a disk id never its record's node and role.
fn invariant_boot_and_disk_claims_are_final(store: &Store) -> Broken {
    let mut boots = BTreeMap::new();
    let mut records = BTreeMap::new();
    for (_, key, value) in &store.history {
        match value {
            Value::Boot(claim) => {
                let before = boots.insert(key.clone(), claim.disk);
                if before.is_some_and(|disk| disk != claim.disk) {
                    return broken("a boot claims one disk", claim.disk);
                }
            }
            Value::Record(record) => {
                let now = (record.node.clone(), record.role, record.created);
                let before = records.insert(record.disk, now.clone());
                if before.is_some_and(|before| before.0 != now.0) {
                    return broken("a disk id is never used again", record.disk);
                }
            }
            _ => {}
        }
    }
    None
}

fn invariant_release_has_claims(store: &Store, job: &Job, disk: DiskId, since: u64) -> Broken {
    let held = |key: Key, test: &dyn Fn(&Value) -> bool| store.held_since(&key, since).any(test);
    let peer = &job.peer;
    let boot = held(
        Key::Boot(peer.boot),
        &|v| matches!(v, Value::Boot(c) if c.disk == disk && c.attester == peer.attester && c.sealing_key == peer.sealing_key),
    );
    let claimed = held(
        Key::Disk(disk),
        &|v| matches!(v, Value::Claim(c) if c.disk == disk && c.attester == peer.attester),
    );
    let indexed = !peer.attester.names_machine()
        || held(
            Key::Attester(peer.attester),
            &|v| matches!(v, Value::Attester(d) if *d == disk),
        );
    let record = store
        .held_since(&Key::Record(disk), since)
        .find_map(|v| match v {
            Value::Record(r) if r.attester == peer.attester && !r.is_tombstone() => Some(r.clone()),
            _ => None,
        });
    let named = record.as_ref().is_some_and(|r| {
        held(
            Key::Name(r.node.clone()),
            &|v| matches!(v, Value::Claim(c) if c.disk == disk && c.attester == peer.attester),
        )
    });
    let role = record.is_some_and(|r| peer.roles.contains(&r.role));
    if boot && claimed && indexed && named && role {
        None
    } else {
        let detail = format!("{disk}: {boot} {claimed} {indexed} {named} {role}");
        Some(("no release without appraisal and durable claims", detail))
    }
}

fn invariant_not_released_when_dead(store: &Store, disk: DiskId, since: u64) -> Broken {
    let alive = store
        .held_since(&Key::Record(disk), since)
        .any(|v| matches!(v, Value::Record(r) if !r.is_tombstone()));
    if alive {
        None
    } else {
        broken("a tombstoned disk is never released again", disk)
    }
}

fn broken(invariant: &'static str, disk: DiskId) -> Broken {
    Some((invariant, disk.to_string()))
}
