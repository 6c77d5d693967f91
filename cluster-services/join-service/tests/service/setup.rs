//! A join service and a key service on free ports, with keys, documents and a PKI made for the test.

use crate::node::{Machine, Node};
use api::admin::join_admin_client::JoinAdminClient;
use audit::{Action, RecordEvent};
use evidence::AdmissionPath;
use hyper_util::rt::TokioIo;
use identity::{ClusterId, DiskId, KeyVersion};
use join_service::{Config, JoinService, StartError};
use key_hierarchy::{KeyEncryptionKey, KeyHierarchy, KeySalt};
use key_service::KeyService;
use owner::{AdmissionKey, AdmissionKeyCertificate, DocumentKind, OwnerKey, Seed, SignedDocument};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use secret::MasterSecret;
use secret_file::SecretKind;
use serde_json::{Value, json};
use service_runtime::{Shutdown, audit_log::AuditLog, config, shutdown::Trigger};
use software_tpm::keys::KeyAuthority;
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use tonic::transport::{Channel, Endpoint};

/// The PCR that tells the two images apart.
pub(crate) const IMAGE_PCR: u32 = 4;
pub(crate) const CONTROL_PLANE_IMAGE: [u8; 32] = [1; 32];

const MASTER: [u8; 32] = [1; 32];
const SALT: [u8; 32] = [2; 32];
pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 32]);

/// Files and keys of one cluster; outlives the services.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) owner: OwnerKey,
    pub(crate) authority: KeyAuthority,
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
}

/// A running service.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) log: AuditLog,
    trigger: Trigger,
    serving: JoinHandle<()>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let owner = OwnerKey::from_seed(&Seed::from_slice(&[5; 32]).unwrap()).unwrap();
        let authority = KeyAuthority::new("vtpm authority").unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let cluster = Self {
            folder,
            owner,
            authority,
            ca: Issuer::new(params, key),
            ca_pem,
        };
        cluster.write_secrets();
        let trusted = cluster.authority.pem().to_owned();
        cluster.write_policy(1, &[&trusted]);
        cluster.write_reference_values(1, &images());
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_secrets(&self) {
        for folder in ["key-log", "join-log"] {
            fs::create_dir(self.path(folder)).unwrap();
        }
        let write = |name: &str, kind, secret: &[u8; 32]| {
            secret_file::write_credential(&self.path(name), kind, secret).unwrap();
        };
        write("master", SecretKind::MasterSecret, &MASTER);
        write("audit-key", SecretKind::AuditKey, &[3; 32]);
        write("admission-key", SecretKind::AdmissionKey, &[4; 32]);
        let public = AdmissionKey::public_half(&Seed::from_slice(&[4; 32]).unwrap()).unwrap();
        let certificate = self.owner.certify(public).encode(&self.owner.public_key());
        fs::write(self.path("admission-key.json"), certificate).unwrap();
        fs::write(self.path("ca.pem"), &self.ca_pem).unwrap();
        for name in ["key-service", "join-service"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &self.ca).unwrap();
            fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
    }

    /// Certifies the admission key by another owner than the configured one.
    pub(crate) fn write_foreign_certificate(&self) {
        let foreign = OwnerKey::from_seed(&Seed::from_slice(&[6; 32]).unwrap()).unwrap();
        let public = AdmissionKey::public_half(&Seed::from_slice(&[4; 32]).unwrap()).unwrap();
        let certificate: AdmissionKeyCertificate = foreign.certify(public);
        let text = certificate.encode(&foreign.public_key());
        fs::write(self.path("admission-key.json"), text).unwrap();
    }

    pub(crate) fn write_policy(&self, serial: u64, authorities: &[&str]) {
        self.write_policy_over(serial, authorities, &appraisal::REQUIRED_PCRS);
    }

    pub(crate) fn write_policy_over(&self, serial: u64, authorities: &[&str], pcrs: &[u32]) {
        let authorities: Vec<_> = authorities
            .iter()
            .map(|pem| json!({"certificate": pem, "bound_to_platform": true}))
            .collect();
        let policy = json!({
            "version": 1, "serial": serial, "evidence": ["tpm"],
            "tpm": {"pcrs": pcrs, "ek_authorities": authorities},
        });
        self.write_signed("policy.json", DocumentKind::Policy, &policy, &self.owner);
    }

    pub(crate) fn write_reference_values(&self, serial: u64, images: &[Value]) {
        let values = json!({"version": 1, "serial": serial, "images": images});
        let kind = DocumentKind::ReferenceValues;
        self.write_signed("reference-values.json", kind, &values, &self.owner);
    }

    pub(crate) fn write_signed(
        &self,
        name: &str,
        kind: DocumentKind,
        payload: &Value,
        owner: &OwnerKey,
    ) {
        let text = SignedDocument::sign(kind, payload.to_string(), owner).encode();
        // As an editor does it, so that no reader sees half a file.
        fs::write(self.path("document.new"), text).unwrap();
        fs::rename(self.path("document.new"), self.path(name)).unwrap();
    }

    pub(crate) async fn start_key_service(&self, port: u16) -> Running {
        let text = format!(
            r#"
listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:0"
drain_seconds = 2
replica = "key-0"
tls = {{ certificate = {certificate:?}, private_key = {key:?}, peer_ca = {ca:?} }}
[[key]]
version = 1
salt = "{salt}"
secret = {{ credential = {{ path = {master:?} }} }}
[[caller]]
name = "dns:join-service"
classes = ["state-disk"]
[audit]
directory = {log:?}
key = {{ credential = {{ path = {audit_key:?} }} }}
file_mebibytes = 1
"#,
            certificate = self.path("key-service.pem"),
            key = self.path("key-service.key"),
            ca = self.path("ca.pem"),
            salt = hex::encode(SALT),
            master = self.path("master"),
            log = self.path("key-log"),
            audit_key = self.path("audit-key"),
        );
        fs::write(self.path("key-service.toml"), text).unwrap();
        let config = config::load(&self.path("key-service.toml")).unwrap();
        let service = KeyService::bind(&config).await.unwrap();
        let (address, admin) = (service.address().unwrap(), service.admin_address().unwrap());
        let log = service.audit_log().clone();
        Running::start(address, admin, log, |shutdown| service.serve(shutdown))
    }

    /// Writes the join service's configuration and gives its path.
    pub(crate) fn write_config(&self, key_service: SocketAddr, extra: &str) -> PathBuf {
        let text = format!(
            r#"
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
operator_socket = {socket:?}
log = "human"
drain_seconds = 5
replica = "join-0"
cluster_id = "{CLUSTER}"
owner = "{owner}"
key_version = 1
admission_key.secret.credential.path = {admission_key:?}
admission_key.certificate = {certificate:?}
documents.policy = {policy:?}
documents.reference_values = {values:?}
store.kind = "file"
store.path = {store:?}
[key_service]
address = "{key_service}"
server_name = "key-service"
timeout_seconds = 2
tls = {{ certificate = {pem:?}, private_key = {key:?}, peer_ca = {ca:?} }}
[audit]
directory = {log:?}
key = {{ credential = {{ path = {audit_key:?} }} }}
file_mebibytes = 1
[limits]
{extra}
"#,
            socket = self.path("operator.socket"),
            owner = self.owner.public_key().fingerprint(),
            admission_key = self.path("admission-key"),
            certificate = self.path("admission-key.json"),
            policy = self.path("policy.json"),
            values = self.path("reference-values.json"),
            store = self.path("store.redb"),
            pem = self.path("join-service.pem"),
            key = self.path("join-service.key"),
            ca = self.path("ca.pem"),
            log = self.path("join-log"),
            audit_key = self.path("audit-key"),
        );
        let path = self.path("join-service.toml");
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) async fn start_join_service(&self, key_service: SocketAddr) -> Running {
        self.start_limited(key_service, "handshake_burst = 1000")
            .await
    }

    pub(crate) async fn start_limited(&self, key_service: SocketAddr, limits: &str) -> Running {
        let config: Config = config::load(&self.write_config(key_service, limits)).unwrap();
        Running::join_service(&config).await.unwrap()
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine::keys(self.authority.manufacture().unwrap())
    }

    pub(crate) async fn join(&self, service: &Running, machine: &Machine) -> Node {
        self.dial(service, machine, AdmissionPath::Join).await
    }

    pub(crate) async fn rejoin(&self, service: &Running, machine: &Machine) -> Node {
        self.dial(service, machine, AdmissionPath::Rejoin).await
    }

    pub(crate) async fn dial(
        &self,
        service: &Running,
        machine: &Machine,
        path: AdmissionPath,
    ) -> Node {
        let owner = self.owner.public_key().fingerprint();
        Node::dial(service.address, machine, owner, path)
            .await
            .unwrap()
    }

    /// The operator's client.
    pub(crate) fn operator(&self) -> JoinAdminClient<Channel> {
        let path = self.path("operator.socket");
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        let endpoint = Endpoint::from_static("http://operator");
        JoinAdminClient::new(endpoint.connect_with_connector_lazy(connect))
    }

    pub(crate) async fn nodes(&self) -> Vec<api::admin::Node> {
        let answer = self
            .operator()
            .list_nodes(api::admin::ListNodesRequest {})
            .await;
        answer.unwrap().into_inner().nodes
    }

    pub(crate) fn join_log(&self) -> String {
        fs::read_to_string(self.path("join-log/audit.00000001.jsonl")).unwrap()
    }

    pub(crate) fn events(&self) -> Vec<RecordEvent> {
        self.join_log().lines().filter_map(event).collect()
    }

    /// The last refusal: its request and its failed checks.
    pub(crate) fn refusals(&self) -> Vec<RecordEvent> {
        let mut events = self.events();
        events.retain(|event| event.action == Action::Refusal);
        events
    }
}

impl Running {
    pub(crate) fn start<F: Future<Output = ()> + Send + 'static>(
        address: SocketAddr,
        admin: SocketAddr,
        log: AuditLog,
        serve: impl FnOnce(Shutdown) -> F,
    ) -> Self {
        let (trigger, shutdown) = Shutdown::new();
        Self {
            address,
            admin,
            log,
            trigger,
            serving: tokio::spawn(serve(shutdown)),
        }
    }

    pub(crate) async fn join_service(config: &Config) -> Result<Self, StartError> {
        let (trigger, shutdown) = Shutdown::new();
        let service = JoinService::bind(config, &shutdown).await?;
        Ok(Self {
            address: service.address().unwrap(),
            admin: service.admin_address().unwrap(),
            log: service.audit_log().clone(),
            trigger,
            serving: tokio::spawn(service.serve(shutdown)),
        })
    }

    pub(crate) async fn stop(self) {
        self.trigger.request();
        self.serving.await.unwrap();
    }

    pub(crate) async fn http(&self, path: &str) -> (u16, String) {
        http(self.admin, path).await
    }

    /// Asks for the metrics until one of them has a line that begins so.
    pub(crate) async fn metric(&self, begins: &str) {
        while !self
            .http("/metrics")
            .await
            .1
            .lines()
            .any(|line| line.starts_with(begins))
        {}
    }
}

pub(crate) async fn http(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

pub(crate) fn image(name: &str, roles: &[&str], pcr: [u8; 32]) -> Value {
    let value = |index| if index == IMAGE_PCR { pcr } else { [0; 32] };
    let pcrs: BTreeMap<u32, _> = appraisal::REQUIRED_PCRS
        .map(|index| (index, [hex::encode(value(index))]))
        .into();
    json!({"name": name, "roles": roles, "pcrs": pcrs})
}

pub(crate) fn images() -> [Value; 2] {
    [
        image("worker-1", &["worker"], [0; 32]),
        image("any-1", &["worker", "control-plane"], CONTROL_PLANE_IMAGE),
    ]
}

pub(crate) fn expected_key(disk: DiskId) -> Vec<u8> {
    let key = KeyEncryptionKey {
        secret: MasterSecret::from_slice(&MASTER).unwrap(),
        salt: KeySalt(SALT),
    };
    let hierarchy = KeyHierarchy::new(KeyVersion::FIRST, key);
    let key = hierarchy
        .derive_state_disk(KeyVersion::FIRST, disk)
        .unwrap();
    key.expose_secret().to_vec()
}

fn event(line: &str) -> Option<RecordEvent> {
    let line: Value = serde_json::from_str(line).ok()?;
    let event = &line["body"]["entry"]["record"]["event"];
    serde_json::from_value(event.clone()).ok()
}

/// An audit log that is whole, by the heads its service last saw.
pub(crate) fn assert_whole(text: &str, log: &AuditLog) {
    let report = audit::verify(text.lines(), &[*log.public_key()], &[log.head()]);
    assert_eq!(report.fault, None, "{text}");
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
