use super::world::{Store, World};
use admission::{
    Context, Grant, Peer, Persisted, Refusal, RefusalClass, Request, Snapshot, Step, Timestamp,
    Write, WriteOutcome, decide,
};
use evidence::AdmissionPath;
use identity::{DiskId, Generation, KeyVersion};
use std::collections::VecDeque;

/// One request in the hands of one replica. Replicas keep nothing else, so a replica that dies is a
/// job that is dropped.
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) machine: u8,
    pub(crate) request: Request,
    pub(crate) peer: Peer,
    phase: Phase,
}

#[allow(clippy::large_enum_variant, reason = "there is a handful of jobs")]
enum Phase {
    Deciding {
        snapshot: Snapshot,
        since: u64,
        now: u64,
    },
    Writing {
        writes: VecDeque<Write>,
        now: u64,
    },
    Planned {
        plan: Persisted,
        since: u64,
    },
    Audited {
        grant: Grant,
        since: u64,
        line: usize,
    },
}

/// What the node hears.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    Registered { disk: DiskId },
    Ticket { disk: DiskId, recorded: Generation },
    Committed { generation: Generation },
    Refused { class: RefusalClass },
    StartOver,
}

impl Job {
    pub(crate) fn new(id: u64, machine: u8, request: Request, peer: Peer) -> Self {
        Self {
            id,
            machine,
            request,
            peer,
            phase: Phase::fresh(0, 0),
        }
    }

    pub(crate) const fn by_services(&self) -> bool {
        matches!(self.peer.path, AdmissionPath::Join | AdmissionPath::Rejoin)
    }
}

impl Phase {
    const fn fresh(since: u64, now: u64) -> Self {
        Self::Deciding {
            snapshot: Snapshot::new(),
            since,
            now,
        }
    }
}

impl World {
    pub(crate) fn drop_job(&mut self, j: u8) {
        if let Some(at) = self.pick(j) {
            self.jobs.remove(at);
        }
    }

    pub(crate) fn duplicate(&mut self, j: u8) {
        if let Some(at) = self.pick(j) {
            let job = &self.jobs[at];
            let copy = Job::new(job.id, job.machine, job.request.clone(), job.peer.clone());
            self.jobs.push(copy);
        }
    }

    pub(crate) fn advance(&mut self, j: u8) {
        let Some(at) = self.pick(j) else { return };
        let mut job = self.jobs.remove(at);
        if self.advance_job(&mut job) {
            self.jobs.insert(at.min(self.jobs.len()), job);
        }
    }

    /// One step; `false` when the job is over.
    pub(crate) fn advance_job(&mut self, job: &mut Job) -> bool {
        let blank = Phase::fresh(self.now, self.now);
        match std::mem::replace(&mut job.phase, blank) {
            Phase::Deciding {
                snapshot,
                since,
                now,
            } => self.decide(job, snapshot, since, now),
            Phase::Writing { writes, now } => {
                self.write_one(job, writes, now);
                true
            }
            Phase::Planned { plan, since } => {
                if let Some(event) = plan.event() {
                    self.audit.push(event.clone());
                }
                job.phase = Phase::Audited {
                    grant: plan.audited(),
                    since,
                    line: self.audit.len(),
                };
                true
            }
            Phase::Audited { grant, since, line } => {
                self.grant(job, grant, since, line);
                false
            }
        }
    }

    fn decide(&mut self, job: &mut Job, mut snapshot: Snapshot, since: u64, now: u64) -> bool {
        let since = if since == 0 { self.now } else { since };
        let now = if now == 0 { self.now } else { now };
        loop {
            let context = Context {
                now: Timestamp(now),
                key_version: KeyVersion::FIRST,
                live_until: self.leases.get(&job.request.disk()).copied().map(Timestamp),
            };
            match decide(&job.request, &job.peer, &context, &snapshot) {
                Ok(Step::Read(keys)) => {
                    for key in keys {
                        let value = self.store(job.by_services()).objects.get(&key).cloned();
                        snapshot.insert(key, value);
                    }
                    if !self.transactions {
                        job.phase = Phase::Deciding {
                            snapshot,
                            since,
                            now,
                        };
                        return true;
                    }
                }
                Ok(Step::Write(writes)) if self.transactions => {
                    for write in &writes {
                        let at = self.now;
                        let outcome = self.store(job.by_services()).apply(at, write);
                        if outcome == WriteOutcome::Conflict {
                            self.violate("no conflict within a transaction", write.key.to_string());
                            return false;
                        }
                    }
                    snapshot = Snapshot::new();
                }
                Ok(Step::Write(writes)) => {
                    let writes = writes.into();
                    job.phase = Phase::Writing { writes, now };
                    return true;
                }
                Ok(Step::Ready(plan)) => {
                    let plan = plan.persisted();
                    job.phase = Phase::Planned { plan, since };
                    return true;
                }
                Err(refusal) => {
                    self.refuse(job, &refusal);
                    return false;
                }
            }
        }
    }

    fn write_one(&mut self, job: &mut Job, mut writes: VecDeque<Write>, now: u64) {
        let at = self.now;
        let outcome = writes
            .pop_front()
            .map(|write| self.store(job.by_services()).apply(at, &write));
        job.phase = match outcome {
            Some(WriteOutcome::Apply | WriteOutcome::Equal) if !writes.is_empty() => {
                Phase::Writing { writes, now }
            }
            _ => Phase::fresh(at, now),
        };
    }

    fn refuse(&mut self, job: &Job, refusal: &Refusal) {
        self.note(format!(
            "  {} of machine {}: {refusal}",
            job.request, job.machine
        ));
        self.audit.push(refusal.event(&job.request, &job.peer));
        let answer = if refusal.starts_over() {
            Answer::StartOver
        } else {
            Answer::Refused {
                class: refusal.class(),
            }
        };
        self.answer(job, answer);
    }

    fn grant(&mut self, job: &Job, grant: Grant, since: u64, line: usize) {
        self.note(format!(
            "  {} of machine {}: granted",
            job.request, job.machine
        ));
        match grant {
            Grant::Registered { disk } => self.answer(job, Answer::Registered { disk }),
            Grant::Committed { generation } => {
                self.check_commit(job, since);
                self.answer(job, Answer::Committed { generation });
            }
            Grant::Ticket(ticket) => {
                let release = ticket.about();
                let (disk, recorded) = (release.disk(), release.generation());
                self.check_release(job, disk, since, line);
                self.answer(job, Answer::Ticket { disk, recorded });
            }
            Grant::Done => {}
        }
    }

    pub(crate) const fn store(&mut self, services: bool) -> &mut Store {
        if services {
            &mut self.services
        } else {
            &mut self.cli
        }
    }

    fn pick(&self, j: u8) -> Option<usize> {
        (!self.jobs.is_empty()).then(|| usize::from(j) % self.jobs.len())
    }
}
