//! The whole way of a call: the agent's ureq over an attested channel to a tonic server, TCP below.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "an integration test: helpers outside #[test] functions may panic too"
)]

use api::{
    Class,
    grpc_web::CallError,
    join::{
        self,
        join_service_server::{JoinService, JoinServiceServer},
    },
};
use attested_tls::{
    AcceptedAttester, ActivatedSecret, Admitter, AdmitterTerms, AppraisalRequest, Appraiser,
    Attestation, AttesterProgress, AttesterSession, AttesterTerms, ChallengeRequest,
    OwnerProofRequest, Refusal, RpcClient, RpcError, SealingKey, Start, TlsEnd,
};
use evidence::{
    AdmissionPath, AttesterClaim, Evidence, EvidenceKind, Requirement, TpmChallenge, TpmEvidence,
    TpmIdentity,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use identity::{ClusterId, DiskId, Generation, KeyVersion, NodeName, Role};
use owner::{OwnerKey, OwnerProof, Seed};
use secret::DataKey;
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, ServiceExt as _};

const LIMIT: Duration = Duration::from_secs(10);
const PCRS: [u32; 2] = [4, 11];

fn owner() -> OwnerKey {
    OwnerKey::from_seed(&Seed::from_slice(&[1; 32]).unwrap()).unwrap()
}

/// Takes evidence that names its binding; the real thing is another crate's.
struct Toy;

impl Appraiser for Toy {
    type Appraised = String;
    type Challenged = String;

    fn terms(&self) -> AdmitterTerms {
        AdmitterTerms {
            accepted: vec![Requirement {
                kind: EvidenceKind::Tpm,
                pcrs: PCRS.to_vec(),
            }],
        }
    }

    fn challenge(
        &self,
        request: ChallengeRequest,
    ) -> Result<(Option<TpmChallenge>, String), Refusal> {
        let challenge = TpmChallenge {
            credential_blob: vec![7; 32],
            encrypted_secret: vec![1],
        };
        let AttesterClaim::Tpm(identity) = request.claim else {
            return Err(Refusal::of(Class::Malformed));
        };
        let name = String::from_utf8(identity.ek_certificate).unwrap();
        Ok((Some(challenge), name))
    }

    fn appraise(&self, challenged: String, request: AppraisalRequest) -> Result<String, Refusal> {
        let Evidence::Tpm(tpm) = request.evidence else {
            return Err(Refusal::of(Class::Malformed));
        };
        let fresh = tpm.attestation == request.binding.qualifying_data();
        let activated = request.activated.unwrap().expose_secret() == &[7; 32];
        if fresh && activated {
            Ok(challenged)
        } else {
            Err(Refusal::of(Class::Refused))
        }
    }

    fn prove(&self, request: &OwnerProofRequest) -> OwnerProof {
        owner().prove(request.side, &request.binding)
    }
}

/// Answers by what is known of the connection.
struct Tickets;

type Peer = Arc<AcceptedAttester<String>>;

fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>();
    peer.cloned()
        .ok_or_else(|| Status::internal("no attested peer"))
}

#[tonic::async_trait]
impl JoinService for Tickets {
    async fn register_disk(
        &self,
        request: Request<join::RegisterDiskRequest>,
    ) -> Result<Response<join::RegisterDiskResponse>, Status> {
        assert_eq!(peer(&request)?.appraised(), "node ek");
        Ok(Response::new(DiskId::from_random([9; 16]).into()))
    }

    async fn issue_join_ticket(
        &self,
        request: Request<join::IssueJoinTicketRequest>,
    ) -> Result<Response<join::IssueJoinTicketResponse>, Status> {
        let peer = peer(&request)?;
        let request = api::JoinTicketRequest::try_from(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if request.role == Role::ControlPlane {
            return Err(Status::permission_denied("role: 100% refused\n"));
        }
        let data_key = DataKey::from_slice(&[5; 32]).unwrap();
        let sealed = peer.sealing_key().seal_data_key(&data_key, peer.binding());
        let ticket = api::JoinTicket {
            cluster_id: ClusterId::from_bytes([2; 32]),
            key_version: KeyVersion::FIRST,
            data_key: sealed.unwrap(),
            material: None,
            ak_certificate: None,
        };
        Ok(Response::new(ticket.into()))
    }

    async fn issue_rejoin_ticket(
        &self,
        _request: Request<join::IssueRejoinTicketRequest>,
    ) -> Result<Response<join::IssueRejoinTicketResponse>, Status> {
        tokio::time::sleep(LIMIT).await;
        Err(Status::unavailable("later"))
    }

    async fn commit(
        &self,
        request: Request<join::CommitRequest>,
    ) -> Result<Response<join::CommitResponse>, Status> {
        Ok(Response::new(join::CommitResponse {
            generation: request.into_inner().generation,
        }))
    }
}

/// Serves one connection and gives the address to dial.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let end = TlsEnd::generate().unwrap();
        let admitter = Admitter::new(end, Arc::new(Toy), 2, LIMIT);
        let stream = admitter.accept(stream, &[AdmissionPath::Join]).await;
        let stream = stream.unwrap();
        let peer = stream.peer().clone();
        let service = GrpcWebLayer::new().layer(JoinServiceServer::new(Tickets));
        let service = service.map_request(move |mut request: hyper::Request<_>| {
            request.extensions_mut().insert(peer.clone());
            request
        });
        // The client closes when it is done, at times without having read everything.
        let _ended = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .await;
    });
    address
}

/// Dials as an agent: the session runs over the socket, then the socket becomes a client.
fn dial(address: SocketAddr, limit: Duration) -> (RpcClient, SealingKey) {
    let mut socket = TcpStream::connect(address).unwrap();
    let sealing_key = SealingKey::generate().unwrap();
    let terms = AttesterTerms {
        owner: owner().public_key().fingerprint(),
        claim: AttesterClaim::Tpm(TpmIdentity {
            ek_certificate: b"node ek".to_vec(),
            ek_public: vec![1],
            ak_public: vec![2],
        }),
        sealing_key: sealing_key.public_key(),
    };
    let start = Start {
        nonce: [8; 32],
        deadline: LIMIT,
    };
    let end = TlsEnd::generate().unwrap();
    let mut session = AttesterSession::connect(&end, start, terms, AdmissionPath::Join).unwrap();
    let started = Instant::now();
    loop {
        match session.step(started.elapsed()).unwrap() {
            AttesterProgress::Established => break,
            AttesterProgress::NeedEvidence(request) => {
                let challenge = request.challenge.unwrap();
                let activated = ActivatedSecret::from_slice(&challenge.credential_blob);
                let pcrs = request.pcrs.iter().map(|&pcr| (pcr, [0; 32]));
                let evidence = TpmEvidence {
                    attestation: request.binding.qualifying_data().to_vec(),
                    signature: vec![1],
                    pcrs: pcrs.collect::<BTreeMap<_, _>>(),
                    event_log: Vec::new(),
                };
                let answer = Attestation {
                    activated: Some(activated.unwrap()),
                    evidence: Evidence::Tpm(evidence),
                };
                session.supply_evidence(Ok(answer)).unwrap();
            }
            AttesterProgress::Pending => {
                while session.wants_write() {
                    session.write_tls(&mut socket).unwrap();
                }
                session.read_tls(&mut socket).unwrap();
            }
        }
    }
    let channel = session.into_channel().unwrap();
    (RpcClient::new(channel, socket, limit), sealing_key)
}

fn join_request(role: Role) -> join::IssueJoinTicketRequest {
    api::JoinTicketRequest {
        disk: DiskId::from_random([9; 16]),
        node_name: "worker-0".parse::<NodeName>().unwrap(),
        role,
        certificate_requests: None,
    }
    .into()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn a_node_joins_over_one_channel() {
    let address = serve().await;
    blocking(move || {
        let (client, sealing_key) = dial(address, LIMIT);
        let registered: join::RegisterDiskResponse = client
            .call(
                "constellation.join.v1.JoinService/RegisterDisk",
                &join::RegisterDiskRequest {},
            )
            .unwrap();
        let disk = DiskId::try_from(registered).unwrap();
        assert_eq!(disk, DiskId::from_random([9; 16]));

        let ticket: join::IssueJoinTicketResponse = client
            .call(
                "constellation.join.v1.JoinService/IssueJoinTicket",
                &join_request(Role::Worker),
            )
            .unwrap();
        let ticket = api::JoinTicket::try_from(ticket).unwrap();
        let data_key = sealing_key
            .open_data_key(&ticket.data_key, client.peer().binding())
            .unwrap();
        assert!(data_key.ct_eq(&DataKey::from_slice(&[5; 32]).unwrap()));

        let request = api::CommitRequest {
            disk,
            generation: Generation::FIRST,
        };
        let committed: join::CommitResponse = client
            .call(
                "constellation.join.v1.JoinService/Commit",
                &join::CommitRequest::from(request),
            )
            .unwrap();
        assert_eq!(Generation::try_from(committed), Ok(Generation::FIRST));
    })
    .await;
}

#[tokio::test]
async fn errors_of_the_server_arrive_with_code_and_text() {
    let address = serve().await;
    blocking(move || {
        let (client, _) = dial(address, LIMIT);
        let refused = client
            .call::<join::IssueJoinTicketResponse>(
                "constellation.join.v1.JoinService/IssueJoinTicket",
                &join_request(Role::ControlPlane),
            )
            .unwrap_err();
        assert_eq!(refused.class(), Class::Refused);
        let RpcError::Call { source, .. } = refused else {
            panic!("{refused:?}")
        };
        let CallError::Status(status) = source else {
            panic!("{source:?}")
        };
        assert_eq!(status.text, "role: 100% refused?");

        let unknown = client
            .call::<join::CommitResponse>(
                "constellation.join.v1.JoinService/Nothing",
                &join::CommitRequest::default(),
            )
            .unwrap_err();
        assert_eq!(unknown.class(), Class::Malformed);
    })
    .await;
}

#[tokio::test]
async fn a_call_past_its_limit_fails_and_ends_the_channel() {
    let address = serve().await;
    blocking(move || {
        let (client, _) = dial(address, Duration::from_millis(200));
        let started = Instant::now();
        let late = client
            .call::<join::IssueRejoinTicketResponse>(
                "constellation.join.v1.JoinService/IssueRejoinTicket",
                &join::IssueRejoinTicketRequest::default(),
            )
            .unwrap_err();
        assert_eq!(late.class(), Class::Unavailable);
        assert!(started.elapsed() < Duration::from_secs(5));
        // The connection is never replaced: there is no other one that was attested.
        let after = client
            .call::<join::CommitResponse>(
                "constellation.join.v1.JoinService/Commit",
                &join::CommitRequest::default(),
            )
            .unwrap_err();
        assert!(matches!(after, RpcError::Transport { .. }), "{after:?}");
    })
    .await;
}
