//! The four calls of a node. Each is: parse, decide durably, record, and only then grant.

use crate::{
    failure::Failure,
    handshake::Node,
    keys::KeyClient,
    store::{Store, StoreError},
};
use admission::{
    Context, Grant, Peer, Refusal, Release, Snapshot, Step, Ticket, Timestamp, decide,
};
use api::{
    CommitRequest, JoinTicket, JoinTicketRequest, RejoinTicket, RejoinTicketRequest, SealedSecret,
    join::{self, join_service_server},
};
use appraisal::Appraiser;
use audit::{Action, RecordEvent, Text};
use aws_lc_rs::rand;
use identity::{ClusterId, DiskId, KeyVersion};
use service_runtime::{Chain, audit_log::AuditLog, watch::Watched};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// Serves accepted nodes.
#[derive(Debug)]
pub struct Tickets {
    /// Policy and reference values.
    pub rules: Watched<Appraiser>,
    /// The records.
    pub store: Store,
    /// The audit log.
    pub audit: AuditLog,
    /// The key service.
    pub keys: KeyClient,
    /// The cluster that nodes join.
    pub cluster: ClusterId,
    /// The version of the key-encryption key that new records get.
    pub key_version: KeyVersion,
}

impl Tickets {
    async fn register(&self, node: &Node) -> Result<DiskId, Failure> {
        let mut random = [0; 16];
        rand::fill(&mut random).map_err(|_| Failure::Random)?;
        let minted = DiskId::from_random(random);
        match self
            .admit(node, admission::Request::RegisterDisk { minted })
            .await?
        {
            Grant::Registered { disk } => Ok(disk),
            _ => Err(Failure::Grant),
        }
    }

    async fn join(&self, node: &Node, request: JoinTicketRequest) -> Result<JoinTicket, Failure> {
        let request = admission::Request::IssueJoinTicket {
            disk: request.disk,
            node: request.node_name,
            role: request.role,
        };
        let Grant::Ticket(ticket) = self.admit(node, request).await? else {
            return Err(Failure::Grant);
        };
        let (release, data_key) = self.release(node, ticket).await?;
        Ok(JoinTicket {
            cluster_id: self.cluster,
            key_version: release.key_version(),
            data_key,
            material: None,
        })
    }

    async fn rejoin(
        &self,
        node: &Node,
        request: RejoinTicketRequest,
    ) -> Result<RejoinTicket, Failure> {
        let request = admission::Request::IssueRejoinTicket {
            disk: request.disk,
            key_version: request.key_version,
        };
        let Grant::Ticket(ticket) = self.admit(node, request).await? else {
            return Err(Failure::Grant);
        };
        let (release, data_key) = self.release(node, ticket).await?;
        Ok(RejoinTicket {
            cluster_id: self.cluster,
            generation: release.generation(),
            data_key,
            node_name: release.node().clone(),
            role: release.role(),
            material: None,
        })
    }

    async fn commit(
        &self,
        node: &Node,
        request: CommitRequest,
    ) -> Result<identity::Generation, Failure> {
        let request = admission::Request::Commit {
            disk: request.disk,
            generation: request.generation,
        };
        match self.admit(node, request).await? {
            Grant::Committed { generation } => Ok(generation),
            _ => Err(Failure::Grant),
        }
    }

    /// Decides in the store, then records; what it returns may be granted.
    async fn admit(&self, node: &Node, request: admission::Request) -> Result<Grant, Failure> {
        let peer = Peer::new(node.appraised(), node.sealing_key().as_bytes(), node.path());
        let context = Context {
            now: now(),
            key_version: self.key_version,
            live_until: None,
        };
        let granted = {
            let (request, peer) = (request.clone(), peer.clone());
            self.grant(move |snapshot| decide(&request, &peer, &context, snapshot))
                .await
        };
        match granted {
            Err(Failure::Refused(refusal)) => {
                self.record_refusal(refusal.event(&request, &peer)).await;
                Err(Failure::Refused(refusal))
            }
            granted => granted,
        }
    }

    /// The store's thread hands what is durable there to the audit log's thread, and that one wakes
    /// this task: nothing is granted before both.
    async fn grant<D>(&self, decide: D) -> Result<Grant, Failure>
    where
        D: Fn(&Snapshot) -> Result<Step, Refusal> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // The peer may have gone; records and lines stay, and its next try continues from them.
        let answer = move |granted| drop(answer.send(granted));
        let audit = self.audit.clone();
        self.store.settle_then(decide, move |decided| {
            let persisted = match decided {
                Ok(persisted) => persisted,
                Err(error) => return answer(Err(error.into())),
            };
            match persisted.event().cloned() {
                Some(event) => audit.record_then(event, move |recorded| {
                    let granted = recorded.map(|()| persisted.audited());
                    answer(granted.map_err(Failure::Audit));
                }),
                None => answer(Ok(persisted.audited())),
            }
        });
        let gone = Err(Failure::Store(StoreError::Failed));
        answered.await.unwrap_or(gone)
    }

    /// Fetches the key of a ticket and seals it to the node, whose appraisal it was decided on.
    async fn release(
        &self,
        node: &Node,
        ticket: Ticket,
    ) -> Result<(Release, SealedSecret), Failure> {
        let release = ticket
            .release(node.appraised(), node.sealing_key().as_bytes())
            .map_err(Failure::ForeignAppraisal)?;
        let key = self.keys.data_key(&release).await.map_err(Failure::Key)?;
        let sealed = node
            .sealing_key()
            .seal_data_key(&key, node.binding())
            .map_err(Failure::Seal)?;
        tracing::info!(
            node = %release.node(),
            disk = %release.disk(),
            path = %node.path(),
            "key released"
        );
        Ok((release, sealed))
    }

    /// A refusal that cannot be recorded is still a refusal.
    async fn record_refusal(&self, event: RecordEvent) {
        if let Err(error) = self.audit.record(event).await {
            tracing::error!(error = %Chain(&error), "a refusal is not in the audit log");
        }
    }

    /// Parses a message, answers it, and turns what went wrong into a status.
    async fn serve<M, R, T, F>(
        &self,
        name: &'static str,
        request: Request<M>,
        answer: F,
    ) -> Result<Response<T>, Status>
    where
        R: TryFrom<M, Error = api::Malformed>,
        F: AsyncFnOnce(&Node, R) -> Result<T, Failure>,
    {
        let node = request.extensions().get::<Node>().cloned();
        let outcome = match &node {
            None => Err(Failure::NoNode),
            Some(node) if !node.is_appraised_by(&self.rules.current()) => {
                Err(Failure::RulesChanged)
            }
            Some(node) => match R::try_from(request.into_inner()) {
                Ok(request) => answer(node, request).await,
                Err(malformed) => {
                    let failure = Failure::Malformed(malformed);
                    self.record_refusal(malformed_event(name, node, &failure))
                        .await;
                    Err(failure)
                }
            },
        };
        let label = outcome
            .as_ref()
            .map_or_else(|failure| failure.class().to_string(), |_| "granted".into());
        metrics::counter!("requests_total", "request" => name, "outcome" => label).increment(1);
        outcome.map(Response::new).map_err(|failure| {
            let attester = node.map(|node| *node.appraised().identity());
            tracing::warn!(
                request = name,
                attester = attester.map(tracing::field::display),
                class = %failure.class(),
                error = %Chain(&failure),
                "request failed"
            );
            failure.status()
        })
    }
}

/// `RegisterDisk` has nothing to parse.
struct Nothing;

impl TryFrom<join::RegisterDiskRequest> for Nothing {
    type Error = api::Malformed;

    fn try_from(_: join::RegisterDiskRequest) -> Result<Self, api::Malformed> {
        Ok(Self)
    }
}

#[tonic::async_trait]
impl join_service_server::JoinService for Tickets {
    async fn register_disk(
        &self,
        request: Request<join::RegisterDiskRequest>,
    ) -> Result<Response<join::RegisterDiskResponse>, Status> {
        self.serve("RegisterDisk", request, async |node: &Node, _: Nothing| {
            self.register(node).await.map(Into::into)
        })
        .await
    }

    async fn issue_join_ticket(
        &self,
        request: Request<join::IssueJoinTicketRequest>,
    ) -> Result<Response<join::IssueJoinTicketResponse>, Status> {
        self.serve("IssueJoinTicket", request, async |node: &Node, request| {
            self.join(node, request).await.map(Into::into)
        })
        .await
    }

    async fn issue_rejoin_ticket(
        &self,
        request: Request<join::IssueRejoinTicketRequest>,
    ) -> Result<Response<join::IssueRejoinTicketResponse>, Status> {
        self.serve(
            "IssueRejoinTicket",
            request,
            async |node: &Node, request| self.rejoin(node, request).await.map(Into::into),
        )
        .await
    }

    async fn commit(
        &self,
        request: Request<join::CommitRequest>,
    ) -> Result<Response<join::CommitResponse>, Status> {
        self.serve("Commit", request, async |node: &Node, request| {
            let generation = self.commit(node, request).await?;
            Ok(join::CommitResponse {
                generation: generation.0,
            })
        })
        .await
    }
}

fn malformed_event(name: &'static str, node: &Node, failure: &Failure) -> RecordEvent {
    let mut event = RecordEvent::new(Action::Refusal, failure.outcome(), name);
    event.path = Some(Text::from_display(node.path()));
    event.attester = Some(Text::from_display(node.appraised().identity()));
    event.image = Some(Text::new(node.appraised().image()));
    event
}

/// The host's clock: shown to operators, trusted for nothing.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.unwrap_or_default().as_secs())
}
