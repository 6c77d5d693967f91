//! The admitting side: one function for requests, one for operator actions.

mod commit;
mod init;
mod join;
mod operator;
mod rejoin;

use crate::{
    Context, OperatorAction, Peer, Plan, Refusal, Request, Snapshot,
    store::{BootClaim, Claim, Halt, Key, Value, Write, Writes},
};
use alloc::{boxed::Box, vec::Vec};
use evidence::AdmissionPath;
use identity::{DiskId, Role};

/// What the driver of a decision does next.
///
/// ```text
/// loop {
///     match decide(request, peer, context, &snapshot)? {
///         Read(keys)    => read them from durable state into the same snapshot
///         Write(writes) => apply in order, stop at the first conflict; begin with an empty snapshot
///         Ready(plan)   => commit; plan.persisted(), append its event, .audited(), grant
///     }
/// }
/// ```
///
/// The store may apply the writes in one transaction or one by one: every prefix of them is a state
/// that the next attempt heals from. `Ready` comes only on a snapshot that holds all of them.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Read these objects, then decide again.
    Read(Vec<Key>),
    /// The store holds everything: nothing is left but to audit and to grant.
    Ready(Box<Plan>),
    /// Apply these in order, then decide again on a fresh snapshot.
    Write(Vec<Write>),
}

/// Decides a request. `peer` must be what was appraised on the channel the request came through.
///
/// # Errors
/// [`Refusal`]; nothing was or is to be written for it but its audit line.
pub fn decide(
    request: &Request,
    peer: &Peer,
    context: &Context,
    snapshot: &Snapshot,
) -> Result<Step, Refusal> {
    let desk = Desk {
        peer,
        context,
        snapshot,
    };
    finish(desk.decide(request))
}

/// Decides an operator's action. The caller must already have authenticated the operator.
///
/// # Errors
/// [`Refusal`] when the store does not allow it.
pub fn operate(
    action: &OperatorAction,
    context: &Context,
    snapshot: &Snapshot,
) -> Result<Step, Refusal> {
    finish(operator::operate(action, context, snapshot))
}

fn finish(decision: Result<Step, Halt>) -> Result<Step, Refusal> {
    match decision {
        Ok(step) => Ok(step),
        Err(Halt::Read(keys)) => Ok(Step::Read(keys)),
        Err(Halt::Refuse(refusal)) => Err(refusal),
    }
}

/// Everything one decision looks at.
struct Desk<'a> {
    peer: &'a Peer,
    context: &'a Context,
    snapshot: &'a Snapshot,
}

impl Desk<'_> {
    fn decide(&self, request: &Request) -> Result<Step, Halt> {
        use AdmissionPath::{Init, Join, Recover, Rejoin};
        match (request, self.peer.path) {
            (Request::RegisterDisk { minted }, Join) => Ok(join::register(*minted)),
            (Request::RegisterDisk { minted }, Init) => self.register_init(*minted),
            (Request::IssueJoinTicket { disk, node, role }, Join | Init) => {
                self.join(*disk, node, *role)
            }
            (Request::IssueRejoinTicket { disk, key_version }, Rejoin | Recover) => {
                self.rejoin(*disk, *key_version)
            }
            (Request::Commit { disk, generation }, _) => self.commit(*disk, *generation),
            (_, path) => Err(Refusal::PathMismatch {
                path,
                request: request.name(),
            }
            .into()),
        }
    }

    /// The claim that this request makes on boot, name and disk.
    const fn claim(&self, disk: DiskId) -> Claim {
        Claim {
            disk,
            boot: self.peer.boot,
            attester: self.peer.attester,
        }
    }

    /// The image must carry the role in its reference values.
    fn role_in_image(&self, role: Role) -> Result<(), Refusal> {
        if self.peer.roles.contains(&role) {
            return Ok(());
        }
        Err(Refusal::RoleNotInImage {
            image: self.peer.image.clone(),
            role,
        })
    }

    /// A boot claims one disk for one sealing key, once and for ever, and gets no second key after its
    /// Commit. Where no latch names the boot, the sealing key is what keeps whoever comes later in the
    /// same boot from asking again.
    fn claim_boot(&self, disk: DiskId, writes: &mut Writes) -> Result<(), Halt> {
        let claim = BootClaim {
            disk,
            boot: self.peer.boot,
            attester: self.peer.attester,
            sealing_key: self.peer.sealing_key,
            committed: None,
        };
        match self.snapshot.boot(self.peer.boot)? {
            None => writes.put(Key::Boot(self.peer.boot), None, Value::Boot(claim)),
            Some(stored) if stored == claim => {}
            Some(stored) if stored.disk == disk => return Err(Refusal::BootSpent { disk }.into()),
            Some(stored) => {
                return Err(Refusal::BootClaimed {
                    expected: stored.disk,
                    got: disk,
                }
                .into());
            }
        }
        Ok(())
    }
}

/// Writes first; the plan only once there are none left.
fn ready_when_written(writes: Writes, plan: impl FnOnce() -> Plan) -> Step {
    if writes.0.is_empty() {
        Step::Ready(Box::new(plan()))
    } else {
        Step::Write(writes.0)
    }
}

#[cfg(test)]
mod tests;
