//! Where one node's requests are decided: the admission core over a ledger, and the keys.

use admission::{
    Context, Grant, Peer, Persisted, Refusal, RefusalClass, Request, Snapshot, Step, Ticket,
    Timestamp, decide,
};
use anyhow::Result;
use api::{SealedSecret, join};
use appraisal::{Appraised, AttesterIdentity};
use attested_tls::{AcceptedAttester, SealError};
use audit::RecordEvent;
use identity::{ClusterId, DiskId, Generation, NodeName};
use key_hierarchy::KeyHierarchy;
use owner::{AdmittedKey, OwnerKey};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tonic::Status;

use crate::output::ExitStatus;

/// A store of the admission core in the operator's files.
pub(crate) trait Ledger: Send + 'static {
    /// Drives the core until it has a plan or refuses; what it wrote is durable then.
    fn settle(
        &mut self,
        decide: &dyn Fn(&Snapshot) -> Result<Step, Refusal>,
    ) -> Result<Result<Persisted, Refusal>>;

    /// Appends an event to the audit file, durably.
    fn audit(&self, now: Timestamp, event: &RecordEvent) -> Result<()>;
}

/// What was decided for the node of one connection. Clones share it.
pub(crate) struct Counter<L> {
    node: Arc<AcceptedAttester<Appraised>>,
    issuer: Issuer,
    state: Arc<Mutex<State<L>>>,
}

/// In whose name tickets are issued, and the keys that they carry.
#[derive(Clone, Debug)]
pub(crate) struct Issuer {
    /// Keys of disks.
    pub(crate) keys: Arc<KeyHierarchy>,
    /// The cluster that they are of.
    pub(crate) cluster: ClusterId,
    /// Who certifies the attestation key of an admitted node.
    pub(crate) owner: Arc<OwnerKey>,
}

struct State<L> {
    ledger: L,
    released: Option<Released>,
    committed: Option<Generation>,
    trouble: Option<Trouble>,
}

/// Why the node did not get what it asked for.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// This side failed.
    Failed(String),
    /// The core refused.
    Refused(Refusal),
}

impl Trouble {
    /// Of a command that it ends.
    pub(crate) fn exit_status(&self) -> ExitStatus {
        ExitStatus::of(match self {
            Self::Refused(refusal) => class(refusal),
            Self::Failed(_) => api::Class::Internal,
        })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(what) => f.write_str(what),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

/// The node and disk that a key was released for.
#[derive(Clone, Debug)]
pub(crate) struct Released {
    pub(crate) node: NodeName,
    pub(crate) disk: DiskId,
}

impl<L> Clone for Counter<L> {
    fn clone(&self) -> Self {
        Self {
            node: Arc::clone(&self.node),
            issuer: self.issuer.clone(),
            state: Arc::clone(&self.state),
        }
    }
}

impl<L: Ledger> Counter<L> {
    pub(crate) fn new(node: Arc<AcceptedAttester<Appraised>>, ledger: L, issuer: Issuer) -> Self {
        let state = State {
            ledger,
            released: None,
            committed: None,
            trouble: None,
        };
        Self {
            node,
            issuer,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What was released, once its Commit is recorded.
    pub(crate) fn committed(&self) -> Option<(Released, Generation)> {
        let state = self.lock();
        state.released.clone().zip(state.committed)
    }

    /// What went wrong with the last call that did.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.lock().trouble.clone()
    }

    /// Whether a key was released on this connection.
    pub(crate) fn has_released(&self) -> bool {
        self.lock().released.is_some()
    }

    /// Decides, saves what was decided, writes the audit line; what it returns may be granted.
    pub(crate) fn admit(&self, request: &Request) -> Result<Grant, Status> {
        let node = &self.node;
        let peer = Peer::new(node.appraised(), node.sealing_key().as_bytes(), node.path());
        let context = Context {
            now: super::now(),
            key_version: self.issuer.keys.newest(),
            live_until: None,
        };
        let mut state = self.lock();
        let settled = state
            .ledger
            .settle(&|snapshot| decide(request, &peer, &context, snapshot));
        let outcome = match settled {
            Ok(Ok(persisted)) => audited(&state.ledger, context.now, persisted),
            Ok(Err(refusal)) => {
                let event = refusal.event(request, &peer);
                // A refusal that cannot be recorded is still a refusal.
                drop(state.ledger.audit(context.now, &event));
                let class = class(&refusal);
                Err((Trouble::Refused(refusal), class))
            }
            Err(error) => Err(internal(&error)),
        };
        outcome.map_err(|(trouble, class)| {
            state.trouble = Some(trouble);
            status(class)
        })
    }

    /// The disk key of a ticket, sealed to the node that the ticket was decided for.
    pub(crate) fn release(
        &self,
        ticket: Ticket,
    ) -> Result<(admission::Release, SealedSecret), Status> {
        let release = ticket
            .release(self.node.appraised(), self.node.sealing_key().as_bytes())
            .map_err(|error| self.failed(&error))?;
        let key = self
            .issuer
            .keys
            .derive_state_disk(release.key_version(), release.disk())
            .map_err(|error| self.failed(&error))?;
        let sealed = self
            .node
            .sealing_key()
            .seal_data_key(&key, self.node.binding());
        let sealed = sealed.map_err(|error| self.failed(&error))?;
        self.lock().released = Some(Released {
            node: release.node().clone(),
            disk: release.disk(),
        });
        Ok((release, sealed))
    }

    /// The cluster.
    pub(crate) const fn cluster(&self) -> ClusterId {
        self.issuer.cluster
    }

    /// That the key which signed in this session is the machine's, for as long as its TPM keeps its seed.
    pub(crate) fn ak_certificate(&self, release: &admission::Release) -> Option<String> {
        let appraised = self.node.appraised();
        let certificate = self.issuer.owner.certify_key(AdmittedKey {
            attestation_key: *appraised.attestation_key()?,
            attester: *appraised.identity().machine()?,
            cluster: self.issuer.cluster,
            disk: release.disk(),
            node: release.node().clone(),
            issued: super::now().0,
        });
        Some(certificate.encode())
    }

    /// As whom the node was attested.
    pub(crate) fn attester(&self) -> &AttesterIdentity {
        self.node.appraised().identity()
    }

    /// Seals what the bootstrapper gets, after [`Self::release`] was.
    pub(crate) fn seal_material(&self, material: &[u8]) -> Result<SealedSecret, Status> {
        let sealing_key = self.node.sealing_key();
        let sealed: Result<_, SealError> = sealing_key.seal_material(material, self.node.binding());
        sealed.map_err(|error| self.failed(&error))
    }

    /// `Commit`.
    pub(crate) fn commit(
        &self,
        request: join::CommitRequest,
    ) -> Result<join::CommitResponse, Status> {
        let request =
            api::CommitRequest::try_from(request).map_err(|_| status(api::Class::Malformed))?;
        let request = Request::Commit {
            disk: request.disk,
            generation: request.generation,
        };
        let Grant::Committed { generation } = self.admit(&request)? else {
            return Err(status(api::Class::Internal));
        };
        self.lock().committed = Some(generation);
        Ok(join::CommitResponse {
            generation: generation.0,
        })
    }

    fn failed(&self, error: &dyn std::error::Error) -> Status {
        self.lock().trouble = Some(Trouble::Failed(error.to_string()));
        status(api::Class::Internal)
    }

    fn lock(&self) -> MutexGuard<'_, State<L>> {
        // A panic while holding the lock ends the command anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn audited(
    ledger: &impl Ledger,
    now: Timestamp,
    persisted: Persisted,
) -> Result<Grant, (Trouble, api::Class)> {
    if let Some(event) = persisted.event() {
        ledger.audit(now, event).map_err(|error| internal(&error))?;
    }
    Ok(persisted.audited())
}

fn internal(error: &anyhow::Error) -> (Trouble, api::Class) {
    (Trouble::Failed(format!("{error:#}")), api::Class::Internal)
}

/// What a refusal of the admission core is to a peer, and to the exit status.
pub(crate) fn class(refusal: &Refusal) -> api::Class {
    match refusal.class() {
        RefusalClass::Internal => api::Class::Internal,
        RefusalClass::Malformed => api::Class::Malformed,
        RefusalClass::Refused => api::Class::Refused,
        RefusalClass::Unavailable => api::Class::Unavailable,
    }
}

/// The class alone: the node's console is the host's.
pub(crate) fn status(class: api::Class) -> Status {
    let code = i32::try_from(class.grpc_code()).map_or(tonic::Code::Internal, tonic::Code::from);
    Status::new(code, class.to_string())
}
