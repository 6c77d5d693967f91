//! The four calls of a node. Each is: parse, decide durably, record, and only then grant.

use crate::{
    failure::Failure,
    handshake::Node,
    keys::KeyClient,
    kubernetes::{CheckedRequests, Known, Kubernetes, ParsedRequests, RequestError},
    records::Records,
    store::StoreError,
};
use admission::{
    Context, Grant, Peer, Refusal, Release, Snapshot, Step, Ticket, Timestamp, decide,
};
use api::{
    CertificateRequests, CommitRequest, JoinTicket, JoinTicketRequest, RejoinTicket,
    RejoinTicketRequest, SealedSecret,
    join::{self, join_service_server},
};
use appraisal::Appraiser;
use audit::{Action, Check, RecordEvent, Text};
use aws_lc_rs::rand;
use identity::{ClusterId, DiskId, KeyVersion, Role};
use owner::{AdmissionKey, AdmittedKey};
use service_runtime::{Chain, audit_log::AuditLog, watch::Watched};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// Serves accepted nodes.
#[derive(Debug)]
pub struct Tickets {
    /// Policy and reference values.
    pub rules: Watched<Appraiser>,
    /// The records.
    pub records: Records,
    /// The cluster that this service is part of, if it is.
    pub kubernetes: Option<Kubernetes>,
    /// The audit log.
    pub audit: AuditLog,
    /// The key service.
    pub keys: KeyClient,
    /// What attestation keys of admitted nodes are certified with.
    pub admission_key: Arc<AdmissionKey>,
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
            .admit(node, admission::Request::RegisterDisk { minted }, None)
            .await?
        {
            Grant::Registered { disk } => Ok(disk),
            _ => Err(Failure::Grant),
        }
    }

    async fn join(&self, node: &Node, request: JoinTicketRequest) -> Result<JoinTicket, Failure> {
        let wanted = self.wanted(node, &request)?;
        let request = admission::Request::IssueJoinTicket {
            disk: request.disk,
            node: request.node_name,
            role: request.role,
        };
        let Grant::Ticket(ticket) = self.admit(node, request, None).await? else {
            return Err(Failure::Grant);
        };
        let release = release(node, ticket)?;
        if let Some(kubernetes) = &self.kubernetes {
            // After the claims are made: nobody else can get the name any more.
            kubernetes.refuse_existing_node(release.node()).await?;
        }
        let (data_key, material) = tokio::try_join!(
            self.data_key(node, &release),
            Box::pin(self.material(node, &release, wanted.as_ref()))
        )?;
        Ok(JoinTicket {
            cluster_id: self.cluster,
            key_version: release.key_version(),
            data_key,
            material,
            ak_certificate: self.ak_certificate(node, &release),
        })
    }

    async fn rejoin(
        &self,
        node: &Node,
        request: RejoinTicketRequest,
    ) -> Result<RejoinTicket, Failure> {
        let known = match &self.kubernetes {
            Some(kubernetes) => Box::pin(kubernetes.look_at(request.disk)).await?,
            None => Known::default(),
        };
        let wanted = self.wanted_again(node, request.certificate_requests, &known)?;
        let request = admission::Request::IssueRejoinTicket {
            disk: request.disk,
            key_version: request.key_version,
        };
        let admitted = self.admit(node, request, known.live_until).await?;
        let Grant::Ticket(ticket) = admitted else {
            return Err(Failure::Grant);
        };
        let release = release(node, ticket)?;
        let (data_key, material) = tokio::try_join!(
            self.data_key(node, &release),
            Box::pin(self.material(node, &release, wanted.as_ref()))
        )?;
        Ok(RejoinTicket {
            cluster_id: self.cluster,
            generation: release.generation(),
            data_key,
            node_name: release.node().clone(),
            role: release.role(),
            material,
            ak_certificate: self.ak_certificate(node, &release),
        })
    }

    /// What a new node asks to be certified. Without it there is no ticket in a cluster, and nothing
    /// is stored; outside of one it means nothing.
    fn wanted(
        &self,
        node: &Node,
        request: &JoinTicketRequest,
    ) -> Result<Option<CheckedRequests>, Failure> {
        let Some(kubernetes) = &self.kubernetes else {
            return Ok(None);
        };
        let requests = request.certificate_requests.clone();
        let of = (&request.node_name, request.role);
        let checked = requests
            .ok_or(RequestError::Absent)
            .and_then(ParsedRequests::parse)
            .and_then(|parsed| kubernetes.check(parsed, of, node.address()));
        checked.map(Some).map_err(Failure::CertificateRequest)
    }

    /// What a known node asks to be certified. It may not know its name before it has the key: requests
    /// for another name are none, and it asks once more.
    fn wanted_again(
        &self,
        node: &Node,
        requests: Option<CertificateRequests>,
        known: &Known,
    ) -> Result<Option<CheckedRequests>, Failure> {
        let (Some(kubernetes), Some((name, role)), Some(requests)) =
            (&self.kubernetes, &known.node, requests)
        else {
            return Ok(None);
        };
        let parsed = ParsedRequests::parse(requests).map_err(Failure::CertificateRequest)?;
        if !parsed.are_of(name) {
            return Ok(None);
        }
        let checked = kubernetes.check(parsed, (name, *role), node.address());
        checked.map(Some).map_err(Failure::CertificateRequest)
    }

    /// Has the node's certificates issued, and seals all that it becomes one with. On a rejoin, too: the
    /// power may fail between the Commit and the files' use.
    async fn material(
        &self,
        node: &Node,
        release: &Release,
        wanted: Option<&CheckedRequests>,
    ) -> Result<Option<SealedSecret>, Failure> {
        let (Some(kubernetes), Some(wanted)) = (&self.kubernetes, wanted) else {
            return Ok(None);
        };
        if wanted.node() != release.node() {
            return Err(Failure::Grant);
        }
        let files = if release.role() == Role::ControlPlane {
            let files = self.keys.control_plane_files(release).await;
            Some(files.map_err(Failure::Key)?)
        } else {
            None
        };
        let material = kubernetes.material(wanted, files).await?;
        let sealed = node.sealing_key().seal_material(&material, node.binding());
        sealed.map(Some).map_err(Failure::Seal)
    }

    /// That the key which signed in this session is the machine's, for as long as its TPM keeps its seed.
    fn ak_certificate(&self, node: &Node, release: &Release) -> Option<String> {
        let appraised = node.appraised();
        let certificate = self.admission_key.certify_key(AdmittedKey {
            attestation_key: *appraised.attestation_key()?,
            attester: *appraised.identity().machine()?,
            cluster: self.cluster,
            disk: release.disk(),
            node: release.node().clone(),
            issued: now().0,
        });
        Some(certificate.encode())
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
        match self.admit(node, request, None).await? {
            Grant::Committed { generation } => Ok(generation),
            _ => Err(Failure::Grant),
        }
    }

    /// Decides in the store, then records; what it returns may be granted.
    async fn admit(
        &self,
        node: &Node,
        request: admission::Request,
        live_until: Option<Timestamp>,
    ) -> Result<Grant, Failure> {
        let peer = Peer::new(node.appraised(), node.sealing_key().as_bytes(), node.path());
        let context = Context {
            now: now(),
            key_version: self.key_version,
            live_until,
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

    /// The store hands what is durable there to the audit log's thread, and that one wakes this task:
    /// nothing is granted before both.
    async fn grant<D>(&self, decide: D) -> Result<Grant, Failure>
    where
        D: Fn(&Snapshot) -> Result<Step, Refusal> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // The peer may have gone; records and lines stay, and its next try continues from them.
        let answer = move |granted| drop(answer.send(granted));
        let audit = self.audit.clone();
        self.records.settle_then(decide, move |decided| {
            let persisted = match decided {
                Ok(persisted) => persisted,
                Err(failure) => return answer(Err(failure)),
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

    /// Fetches the key that may be released and seals it to the node.
    async fn data_key(&self, node: &Node, release: &Release) -> Result<SealedSecret, Failure> {
        let key = self.keys.data_key(release).await.map_err(Failure::Key)?;
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
        Ok(sealed)
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
            Some(node) => {
                let outcome = match R::try_from(request.into_inner()) {
                    Ok(request) => answer(node, request).await,
                    Err(malformed) => Err(Failure::Malformed(malformed)),
                };
                if let Err(failure) = &outcome
                    && let Some(event) = undecided_event(name, node, failure)
                {
                    self.record_refusal(event).await;
                }
                outcome
            }
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

/// The permission in a ticket, for the node on whose appraisal it was decided.
fn release(node: &Node, ticket: Ticket) -> Result<Release, Failure> {
    ticket
        .release(node.appraised(), node.sealing_key().as_bytes())
        .map_err(Failure::ForeignAppraisal)
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

/// The event of a refusal that the core had no part in.
fn undecided_event(name: &'static str, node: &Node, failure: &Failure) -> Option<RecordEvent> {
    let check = match failure {
        Failure::Malformed(_) => None,
        Failure::CertificateRequest(error) => Some(Check::new(
            "certificate-requests",
            "the node's own names",
            error,
        )),
        Failure::NodeExists(name) => Some(Check::new("node", "none before the join", name)),
        _ => return None,
    };
    let mut event = RecordEvent::new(Action::Refusal, failure.outcome(), name);
    event.path = Some(Text::from_display(node.path()));
    event.attester = Some(Text::from_display(node.appraised().identity()));
    event.image = Some(Text::new(node.appraised().image()));
    event.checks.extend(check);
    Some(event)
}

/// The host's clock: shown to operators, trusted for nothing.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.unwrap_or_default().as_secs())
}
