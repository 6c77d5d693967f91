//! The two calls of a node that is recovered.

use admission::{Context, Grant, Peer, Persisted, Refusal, RefusalClass, Timestamp, decide};
use api::{
    CommitRequest, RejoinTicket, RejoinTicketRequest,
    join::{self, join_service_server::JoinService},
};
use appraisal::Appraised;
use attested_tls::AcceptedAttester;
use identity::{ClusterId, DiskId, Generation, NodeName};
use key_hierarchy::KeyHierarchy;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tonic::{Request, Response, Status};

use super::book::Book;

/// Serves the node of one connection.
#[derive(Clone, Debug)]
pub(super) struct Tickets {
    node: Arc<AcceptedAttester<Appraised>>,
    keys: Arc<KeyHierarchy>,
    cluster: ClusterId,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    book: Book,
    unlocking: Option<Unlocking>,
    committed: Option<Generation>,
    refusal: Option<String>,
}

/// The node and disk of the ticket that was given out.
#[derive(Clone, Debug)]
pub(super) struct Unlocking {
    pub(super) node: NodeName,
    pub(super) disk: DiskId,
}

impl Tickets {
    pub(super) fn new(
        node: Arc<AcceptedAttester<Appraised>>,
        book: Book,
        keys: KeyHierarchy,
        cluster: ClusterId,
    ) -> Self {
        let state = State {
            book,
            unlocking: None,
            committed: None,
            refusal: None,
        };
        Self {
            node,
            keys: Arc::new(keys),
            cluster,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What was unlocked, once its Commit is recorded.
    pub(super) fn committed(&self) -> Option<(Unlocking, Generation)> {
        let state = self.lock();
        state.unlocking.clone().zip(state.committed)
    }

    /// Why the last call was refused.
    pub(super) fn refusal(&self) -> Option<String> {
        self.lock().refusal.clone()
    }

    fn rejoin(&self, request: RejoinTicketRequest) -> Result<RejoinTicket, Status> {
        let request = admission::Request::IssueRejoinTicket {
            disk: request.disk,
            key_version: request.key_version,
        };
        let Grant::Ticket(ticket) = self.admit(&request)? else {
            return Err(Status::internal("internal"));
        };
        let release = ticket
            .release(self.node.appraised(), self.node.sealing_key().as_bytes())
            .map_err(|error| self.failed(&error))?;
        let key = self
            .keys
            .derive_state_disk(release.key_version(), release.disk())
            .map_err(|error| self.failed(&error))?;
        let data_key = self
            .node
            .sealing_key()
            .seal_data_key(&key, self.node.binding())
            .map_err(|error| self.failed(&error))?;
        self.lock().unlocking = Some(Unlocking {
            node: release.node().clone(),
            disk: release.disk(),
        });
        Ok(RejoinTicket {
            cluster_id: self.cluster,
            generation: release.generation(),
            data_key,
            node_name: release.node().clone(),
            role: release.role(),
            material: None,
        })
    }

    fn commit(&self, request: CommitRequest) -> Result<join::CommitResponse, Status> {
        let request = admission::Request::Commit {
            disk: request.disk,
            generation: request.generation,
        };
        let Grant::Committed { generation } = self.admit(&request)? else {
            return Err(Status::internal("internal"));
        };
        self.lock().committed = Some(generation);
        Ok(join::CommitResponse {
            generation: generation.0,
        })
    }

    /// Decides, saves the records, writes the audit line; what it returns may be granted.
    fn admit(&self, request: &admission::Request) -> Result<Grant, Status> {
        let node = &self.node;
        let peer = Peer::new(node.appraised(), node.sealing_key().as_bytes(), node.path());
        let context = Context {
            now: now(),
            key_version: self.keys.newest(),
            live_until: None,
        };
        let mut state = self.lock();
        let settled = state
            .book
            .settle(|snapshot| decide(request, &peer, &context, snapshot));
        let outcome = match settled {
            Ok(Ok(persisted)) => audited(&state.book, context.now, persisted),
            Ok(Err(refusal)) => {
                let event = refusal.event(request, &peer);
                // A refusal that cannot be recorded is still a refusal.
                drop(state.book.audit(context.now, &event));
                Err((refusal.to_string(), class(&refusal)))
            }
            Err(error) => Err((format!("{error:#}"), api::Class::Internal)),
        };
        outcome.map_err(|(reason, class)| {
            state.refusal = Some(reason);
            status(class)
        })
    }

    fn failed(&self, error: &dyn std::error::Error) -> Status {
        self.lock().refusal = Some(error.to_string());
        status(api::Class::Internal)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock ends the command anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn audited(
    book: &Book,
    now: Timestamp,
    persisted: Persisted,
) -> Result<Grant, (String, api::Class)> {
    if let Some(event) = persisted.event() {
        book.audit(now, event)
            .map_err(|error| (format!("{error:#}"), api::Class::Internal))?;
    }
    Ok(persisted.audited())
}

#[tonic::async_trait]
impl JoinService for Tickets {
    async fn register_disk(
        &self,
        _: Request<join::RegisterDiskRequest>,
    ) -> Result<Response<join::RegisterDiskResponse>, Status> {
        Err(status(api::Class::Refused))
    }

    async fn issue_join_ticket(
        &self,
        _: Request<join::IssueJoinTicketRequest>,
    ) -> Result<Response<join::IssueJoinTicketResponse>, Status> {
        Err(status(api::Class::Refused))
    }

    async fn issue_rejoin_ticket(
        &self,
        request: Request<join::IssueRejoinTicketRequest>,
    ) -> Result<Response<join::IssueRejoinTicketResponse>, Status> {
        let request = RejoinTicketRequest::try_from(request.into_inner())
            .map_err(|_| status(api::Class::Malformed))?;
        self.rejoin(request)
            .map(|ticket| Response::new(ticket.into()))
    }

    async fn commit(
        &self,
        request: Request<join::CommitRequest>,
    ) -> Result<Response<join::CommitResponse>, Status> {
        let request = CommitRequest::try_from(request.into_inner())
            .map_err(|_| status(api::Class::Malformed))?;
        self.commit(request).map(Response::new)
    }
}

fn class(refusal: &Refusal) -> api::Class {
    match refusal.class() {
        RefusalClass::Internal => api::Class::Internal,
        RefusalClass::Malformed => api::Class::Malformed,
        RefusalClass::Refused => api::Class::Refused,
        RefusalClass::Unavailable => api::Class::Unavailable,
    }
}

/// The class alone: the node's console is the host's.
fn status(class: api::Class) -> Status {
    let code = i32::try_from(class.grpc_code()).map_or(tonic::Code::Internal, tonic::Code::from);
    Status::new(code, class.to_string())
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.unwrap_or_default().as_secs())
}
