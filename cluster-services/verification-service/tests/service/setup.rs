//! A node with a latched TPM, the service on it, and whoever asks.

use api::verify::verification_service_client::VerificationServiceClient;
use appraisal::{
    Appraiser, AttesterIdentity, Challenged, CredentialSecret, Endorsements, Policy, REQUIRED_PCRS,
    ReferenceValues, Statement,
};
use evidence::{AdmissionPath, AttesterClaim, Evidence, Nonce, Subject, TpmChallenge, TpmIdentity};
use hand_off::{Attachments, AttestationKey, HandOff};
use identity::{ClusterId, DiskId, Generation, NodeName, Role};
use owner::{AdmittedKey, AkCertificate, OwnerKey, Seed};
use platform::tpm::{TpmAttester, TpmDevice};
use serde_json::{Value, json};
use service_runtime::{Shutdown, shutdown::Trigger};
use software_tpm::{Authority, SoftwareTpm};
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::Channel;
use verification_service::VerificationService;

pub(crate) const CLUSTER: [u8; 32] = [7; 32];
pub(crate) const NODE: &str = "worker-0";

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that booted, unlocked a disk of the cluster, and stopped using its TPM.
pub(crate) struct Machine {
    pub(crate) authority: Authority,
    pub(crate) tpm: SoftwareTpm,
    pcrs: BTreeMap<u32, [u8; 32]>,
    /// The attestation key that the agent was admitted with.
    pub(crate) key: AttestationKey,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let authority = Authority::new().unwrap();
        let tpm = authority.manufacture().unwrap();
        let device = TpmDevice::Socket(tpm.socket().unwrap());
        let mut agent = TpmAttester::open(&device).unwrap();
        let pcrs = agent.quote(&[0; 32], &REQUIRED_PCRS).unwrap().pcrs;
        // As the agent does it.
        agent.extend(15, &CLUSTER).unwrap();
        let identity = agent.identity();
        let key = AttestationKey {
            public: identity.ak_public.clone(),
            unique: *agent.unique(),
            certificate: certify(identity, &owner()).encode(),
        };
        Self {
            key,
            authority,
            tpm,
            pcrs,
        }
    }

    /// What a verifier of this machine's owner knows.
    pub(crate) fn appraiser(&self) -> Appraiser {
        let value = |(pcr, value): (&u32, &[u8; 32])| (pcr.to_string(), json!([hex(value)]));
        let pcrs: serde_json::Map<_, _> = self.pcrs.iter().map(value).collect();
        let policy = json!({
            "version": 1,
            "serial": 1,
            "evidence": ["tpm"],
            "tpm": {
                "pcrs": REQUIRED_PCRS,
                "ek_authorities": [
                    {"certificate": self.authority.root_pem().unwrap(), "bound_to_platform": true},
                ],
                "ek_intermediates": [self.authority.issuer_pem().unwrap()],
            },
        });
        let images = json!([{"name": "v1", "roles": ["worker"], "pcrs": pcrs}]);
        let values = json!({"version": 1, "serial": 1, "images": images});
        Appraiser::new(
            Policy::parse(policy.to_string().as_bytes()).unwrap(),
            ReferenceValues::parse(values.to_string().as_bytes()).unwrap(),
        )
        .unwrap()
    }
}

/// Who admitted the machines here.
pub(crate) fn owner() -> OwnerKey {
    OwnerKey::from_seed(&Seed::from_slice(&[1; 32]).unwrap()).unwrap()
}

/// What an admission says of the attestation key of `identity`.
fn certify(identity: &TpmIdentity, owner: &OwnerKey) -> AkCertificate {
    let ek = tpm::EndorsementKey::parse(&identity.ek_public).unwrap();
    let ak = tpm::AttestationKey::parse(&identity.ak_public).unwrap();
    owner.certify_key(AdmittedKey {
        attestation_key: ak.name().digest(),
        attester: *AttesterIdentity::of_key(ek.name()).machine().unwrap(),
        cluster: ClusterId::from_bytes(CLUSTER),
        disk: DiskId::from_bytes([5; 16]),
        node: NODE.parse().unwrap(),
        issued: 0,
    })
}

pub(crate) fn challenge(
    appraiser: &Appraiser,
    claim: &AttesterClaim,
) -> (Challenged, TpmChallenge) {
    let secret = CredentialSecret::from_slice(&[0x77; 32]).unwrap();
    let (challenged, challenge) = appraiser.challenge(claim, secret).unwrap();
    (challenged, challenge.unwrap())
}

/// Calls `judge` with the statement of this node about `nonce`.
pub(crate) fn judge<T>(
    nonce: &Nonce,
    evidence: &Evidence,
    judge: impl FnOnce(&Statement<'_>) -> T,
) -> T {
    let node: NodeName = NODE.parse().unwrap();
    judge(&Statement {
        subject: &Subject {
            nonce,
            cluster: &ClusterId::from_bytes(CLUSTER),
            node: &node,
        },
        evidence,
        endorsements: Endorsements::default(),
        now: 0,
    })
}

/// A running service.
pub(crate) struct Running {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) admin: SocketAddr,
    shutdown: Trigger,
    served: JoinHandle<()>,
    _folder: TempDir,
}

impl Running {
    /// Starts the service with its TPM at `socket`, and `limits` as the configuration has them.
    pub(crate) async fn start(socket: &Path, limits: &str) -> Self {
        let node = format!("name = \"{NODE}\"\ncluster_id = \"{}\"\n", hex(&CLUSTER));
        Self::start_as(&node, socket, limits).await
    }

    /// On this machine, with what the agent would hand over: `key` included.
    pub(crate) async fn with_key(machine: &Machine, key: AttestationKey) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hand_off = HandOff {
            version: 1,
            path: AdmissionPath::Join,
            cluster_id: ClusterId::from_bytes(CLUSTER),
            node_name: NODE.parse().unwrap(),
            role: Role::Worker,
            disk_uuid: DiskId::from_bytes([5; 16]),
            generation: Generation::FIRST,
            state_device: "/dev/mapper/constellation-state".into(),
            attestation_key: Some(key),
        };
        let path = folder.path().join("hand-off");
        hand_off.write(&path, &Attachments::default()).unwrap();
        let node = format!("hand_off = \"{}\"\n", path.display());
        let socket = machine.tpm.socket().unwrap();
        let running = Self::start_as(&node, &socket, "").await;
        running.wait_ready().await;
        running
    }

    async fn start_as(node: &str, socket: &Path, limits: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("cmdline"), "quiet constellation.evidence=tpm\n").unwrap();
        let config = format!(
            "http_listen = \"127.0.0.1:0\"\ngrpc_listen = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\ndrain_seconds = 10\n\
             [node]\n{node}\
             [devices]\ncommand_line = \"{}\"\ntpm = \"unix:{}\"\n[limits]\n{limits}\n",
            path("cmdline").display(),
            socket.display(),
        );
        fs::write(path("config.toml"), config).unwrap();
        let config = service_runtime::config::load(&path("config.toml")).unwrap();
        let service = VerificationService::bind(&config).await.unwrap();
        let (shutdown, requested) = Shutdown::new();
        Self {
            http: service.http_address().unwrap(),
            grpc: service.grpc_address().unwrap(),
            admin: service.admin_address().unwrap(),
            shutdown,
            served: tokio::spawn(service.serve(requested)),
            _folder: folder,
        }
    }

    /// The same, once it is ready.
    pub(crate) async fn ready(machine: &Machine, limits: &str) -> Self {
        let running = Self::start(&machine.tpm.socket().unwrap(), limits).await;
        running.wait_ready().await;
        running
    }

    pub(crate) async fn wait_ready(&self) {
        let ready = async {
            while get(self.admin, "/readyz").await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, ready).await.unwrap();
    }

    pub(crate) async fn client(&self) -> VerificationServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).unwrap();
        VerificationServiceClient::new(channel.connect().await.unwrap())
    }

    pub(crate) fn request_shutdown(&self) {
        self.shutdown.request();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.request();
        timeout(PATIENCE, self.served).await.unwrap().unwrap();
    }
}

/// `GET`: the status and the body.
pub(crate) async fn get(address: SocketAddr, target: &str) -> (u16, String) {
    get_from([127, 0, 0, 1].into(), address, target).await
}

/// The same from another address of this machine.
pub(crate) async fn get_from(from: IpAddr, address: SocketAddr, target: &str) -> (u16, String) {
    let mut stream = connect(from, address).await;
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    // A server that refuses early may have closed before all was sent.
    drop(stream.write_all(request.as_bytes()).await);
    let mut response = Vec::new();
    drop(
        timeout(PATIENCE, stream.read_to_end(&mut response))
            .await
            .unwrap(),
    );
    parse(&response)
}

pub(crate) fn parse(response: &[u8]) -> (u16, String) {
    let response = String::from_utf8_lossy(response);
    let Some((head, body)) = response.split_once("\r\n\r\n") else {
        return (0, String::new());
    };
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

pub(crate) async fn connect(from: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

pub(crate) fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}
