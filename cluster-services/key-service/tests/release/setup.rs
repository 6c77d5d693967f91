//! A key service on a free port, with a certificate authority made for the test.

use crate::client::Client;
use audit::RecordEvent;
use identity::{DiskId, KeyVersion};
use key_hierarchy::{KeyEncryptionKey, KeyHierarchy, KeySalt};
use key_service::{Config, KeyService};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use secret::MasterSecret;
use secret_file::SecretKind;
use service_runtime::{Shutdown, audit_log::AuditLog, config, mtls, shutdown::Trigger};
use std::{fs, net::SocketAddr, path::Path, sync::Arc};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

pub(crate) const DISK: DiskId =
    DiskId::from_bytes([0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);

const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
const SALTS: [[u8; 32]; 2] = [[3; 32], [4; 32]];

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Writes `NAME.pem`, `NAME.key` and `NAME-ca.pem` of a new certificate into `folder`.
    pub(crate) fn issue(
        &self,
        folder: &Path,
        file: &str,
        names: &[&str],
        peers: &Self,
    ) -> mtls::TlsFiles {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let files = mtls::TlsFiles {
            certificate: folder.join(format!("{file}.pem")),
            private_key: folder.join(format!("{file}.key")),
            peer_ca: folder.join(format!("{file}-ca.pem")),
        };
        fs::write(&files.certificate, leaf.pem()).unwrap();
        fs::write(&files.private_key, key.serialize_pem()).unwrap();
        fs::write(&files.peer_ca, &peers.certificate).unwrap();
        files
    }
}

pub(crate) struct Setup {
    pub(crate) authority: Authority,
    folder: TempDir,
    address: SocketAddr,
    admin: SocketAddr,
    log: AuditLog,
    trigger: Trigger,
    serving: JoinHandle<()>,
}

impl Setup {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let mut config = configuration(folder.path(), &authority);
        change(&mut config);
        let service = KeyService::bind(&config).await.unwrap();
        let (address, admin) = (service.address().unwrap(), service.admin_address().unwrap());
        let log = service.audit_log().clone();
        let (trigger, shutdown) = Shutdown::new();
        Self {
            authority,
            folder,
            address,
            admin,
            log,
            trigger,
            serving: tokio::spawn(service.serve(shutdown)),
        }
    }

    pub(crate) async fn client(&self, name: &str) -> Client {
        self.connect(&self.authority, name).await.unwrap()
    }

    pub(crate) async fn connect(
        &self,
        authority: &Authority,
        name: &str,
    ) -> Result<Client, String> {
        self.connect_as(authority, &[name]).await
    }

    pub(crate) async fn connect_as(
        &self,
        authority: &Authority,
        names: &[&str],
    ) -> Result<Client, String> {
        let files = authority.issue(self.folder.path(), names[0], names, &self.authority);
        Ok(self.dial(mtls::client_config(&files).unwrap()))
    }

    pub(crate) async fn connect_without_certificate(&self) -> Result<Client, String> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.certificate.as_bytes());
        roots.add(authority.unwrap()).unwrap();
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(self.dial(Arc::new(config)))
    }

    fn dial(&self, config: Arc<ClientConfig>) -> Client {
        Client::dial(self.address, "key-service", config)
    }

    pub(crate) async fn close_audit_log(&self) {
        self.log.finish().await.unwrap();
    }

    pub(crate) async fn http(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// Shuts the service down and gives what its audit log says, which must be whole.
    pub(crate) async fn stop(self) -> Vec<RecordEvent> {
        self.trigger.request();
        self.serving.await.unwrap();
        let text = fs::read_to_string(self.folder.path().join("log/audit.00000001.jsonl")).unwrap();
        let report = audit::verify(text.lines(), &[*self.log.public_key()], &[self.log.head()]);
        assert_eq!(report.fault, None, "{text}");
        assert!(
            report.chains.iter().all(|chain| chain.unsigned == 0),
            "{report:?}"
        );
        text.lines().filter_map(event).collect()
    }
}

pub(crate) fn expected_disk_key(version: u32, disk: DiskId) -> Vec<u8> {
    let index = usize::try_from(version - 1).unwrap();
    let key = KeyEncryptionKey {
        secret: MasterSecret::from_slice(&SECRETS[index]).unwrap(),
        salt: KeySalt(SALTS[index]),
    };
    let version = KeyVersion(version);
    let hierarchy = KeyHierarchy::new(version, key);
    hierarchy
        .derive_state_disk(version, disk)
        .unwrap()
        .expose_secret()
        .to_vec()
}

fn event(line: &str) -> Option<RecordEvent> {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let event = &line["body"]["entry"]["record"]["event"];
    serde_json::from_value(event.clone()).ok()
}

pub(crate) fn configuration(folder: &Path, authority: &Authority) -> Config {
    fs::create_dir(folder.join("log")).unwrap();
    let tls = authority.issue(folder, "server", &["key-service"], authority);
    let (first, second) = (folder.join("master-1"), folder.join("master-2"));
    secret_file::write_credential(&first, SecretKind::MasterSecret, &SECRETS[0]).unwrap();
    secret_file::write_credential(&second, SecretKind::MasterSecret, &SECRETS[1]).unwrap();
    let audit_key = folder.join("audit-key");
    secret_file::write_credential(&audit_key, SecretKind::AuditKey, &[9; 32]).unwrap();
    let path = folder.join("key-service.toml");
    fs::write(
        &path,
        format!(
            r#"
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
drain_seconds = 5
replica = "key-0"

[tls]
certificate = {certificate:?}
private_key = {private_key:?}
peer_ca = {peer_ca:?}

[[key]]
version = 1
salt = "{salt_1}"
secret = {{ credential = {{ path = {first:?} }} }}

[[key]]
version = 2
salt = "{salt_2}"
secret = {{ credential = {{ path = {second:?} }} }}

[[caller]]
name = "dns:join-service"
classes = ["state-disk"]

[[caller]]
name = "dns:volume-driver"
classes = ["volume"]

[audit]
directory = {log:?}
key = {{ credential = {{ path = {audit_key:?} }} }}
file_mebibytes = 1
"#,
            certificate = tls.certificate,
            private_key = tls.private_key,
            peer_ca = tls.peer_ca,
            salt_1 = "03".repeat(32),
            salt_2 = "04".repeat(32),
            log = folder.join("log"),
        ),
    )
    .unwrap();
    config::load(&path).unwrap()
}
