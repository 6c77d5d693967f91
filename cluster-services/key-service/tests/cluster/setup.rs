//! Key services of one cluster: its manifests on a real API server, replicas in this process, their
//! files as a kubelet would mount them.

use crate::client::Client;
use api::key::GetControlPlaneFilesRequest;
use hand_off::{
    AdmissionMaterial, ClusterMaterial, ControlPlaneFiles, KubernetesMaterial, SecretText,
};
use identity::{DiskId, KeyVersion};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use key_hierarchy::{KeyEncryptionKey, KeyHierarchy, KeySalt, MeasurementSalt};
use key_service::{Config, KeyService};
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use kube_store::{GROUP, NAMESPACE, VERSION};
use manifests::{Attestation, Cluster, Object, Values, apply, render};
use native_kubernetes::{ControlPlane, Kubernetes, Options};
use rustls::ClientConfig;
use secret::MasterSecret;
use serde_json::{Value, json};
use service_runtime::{Shutdown, config, mtls::TlsPem, shutdown::Trigger};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OnceCell,
    task::JoinHandle,
};
use tonic::Code;

pub(crate) const SERVER_NAME: &str = "key-service.constellation-system.svc";
pub(crate) const FILES: &str = "{\"ca.crt\":\"pem\",\"ca.key\":\"very secret\"}";
pub(crate) const MASTER: [u8; 32] = [0x5a; 32];

/// What the attester of all records here is.
pub(crate) const ATTESTER: &str = "aa";

/// An own control plane with the manifests on it.
pub(crate) struct Site {
    pub(crate) control_plane: ControlPlane,
    objects: Vec<Object>,
    kubeconfig: String,
}

impl Site {
    pub(crate) async fn start() -> Self {
        capture_logs();
        let kubernetes = Kubernetes::find().unwrap();
        let control_plane = ControlPlane::start(&kubernetes, Options::default()).unwrap();
        let objects = render(&values()).unwrap();
        let client = control_plane.kube_client().unwrap();
        apply(&client, &objects, |_| {}).await.unwrap();
        // With the rights of the manifests, not an administrator's.
        let account = control_plane
            .service_account(NAMESPACE, "key-service")
            .await;
        Self {
            kubeconfig: account.unwrap().kubeconfig(),
            control_plane,
            objects,
        }
    }

    /// One for the tests that neither harm it nor look at what others write; disks differ.
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Site> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    pub(crate) async fn replica(&self) -> Replica {
        self.replica_with(604_800).await
    }

    /// A replica with certificates of this many seconds.
    pub(crate) async fn replica_with(&self, seconds: u32) -> Replica {
        let folder = tempfile::tempdir().unwrap();
        self.mount(folder.path());
        let path = folder.path().join("config/key-service.toml");
        let text = fs::read_to_string(&path).unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let kubeconfig = format!("[cluster]\nkubeconfig = {:?}", at("kubeconfig"));
        let text = text
            .replace("/etc/constellation", &folder.path().display().to_string())
            .replace("/var/lib/constellation/audit", &at("audit"))
            .replace("0.0.0.0:9000", "127.0.0.1:0")
            .replace("0.0.0.0:9001", "127.0.0.1:0")
            .replace("604800", &seconds.to_string())
            .replace("[cluster]", &kubeconfig);
        fs::write(&path, text).unwrap();
        let config: Config = config::load(&path).unwrap();
        let service = KeyService::bind(&config).await.unwrap();
        let (trigger, shutdown) = Shutdown::new();
        Replica {
            address: service.address().unwrap(),
            admin: service.admin_address().unwrap(),
            trigger,
            serving: tokio::spawn(service.serve(shutdown)),
            folder,
        }
    }

    /// What the pod's volumes would hold.
    fn mount(&self, folder: &Path) {
        let pod = &self.find("DaemonSet", "key-service").json["spec"]["template"]["spec"];
        for volume in pod["volumes"].as_array().unwrap() {
            let target = folder.join(volume["name"].as_str().unwrap());
            fs::create_dir(&target).unwrap();
            if let Some(name) = volume["secret"]["secretName"].as_str() {
                let secret = self.find("Secret", name).json.clone();
                let secret: Secret = serde_json::from_value(secret).unwrap();
                for (key, bytes) in secret.data.unwrap() {
                    fs::write(target.join(key), bytes.0).unwrap();
                }
            } else if let Some(name) = volume["configMap"]["name"].as_str() {
                let map = self.find("ConfigMap", name).json.clone();
                let map: ConfigMap = serde_json::from_value(map).unwrap();
                for (key, text) in map.data.unwrap() {
                    fs::write(target.join(key), text).unwrap();
                }
            }
        }
        fs::write(folder.join("pod/name"), "key-service-abcde").unwrap();
        fs::write(folder.join("kubeconfig"), &self.kubeconfig).unwrap();
    }

    fn find(&self, kind: &str, name: &str) -> &Object {
        let is_it = |o: &&Object| o.kind() == kind && o.name() == name;
        self.objects.iter().find(is_it).unwrap()
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.control_plane.kube_client().unwrap(), NAMESPACE)
    }

    pub(crate) fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.control_plane.kube_client().unwrap(), NAMESPACE)
    }

    pub(crate) async fn tls_secret(&self) -> BTreeMap<String, Vec<u8>> {
        let secret = self.secrets().get("join-service-tls").await.unwrap();
        let data = secret.data.unwrap_or_default().into_iter();
        data.map(|(key, bytes)| (key, bytes.0)).collect()
    }

    /// What the join service has once its pod starts.
    pub(crate) async fn join_service(&self) -> Arc<ClientConfig> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let secret = self.tls_secret().await;
            if !secret.is_empty() {
                return client_config(&secret);
            }
            assert!(Instant::now() < end, "no client certificate in time");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stores an object of the admission core, as the join service does.
    pub(crate) async fn store(&self, kind: &str, name: &str, spec: Value) {
        let client = self.control_plane.kube_client().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client, NAMESPACE, &resource);
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind,
            "metadata": {"name": name}, "spec": spec,
        });
        let parameters = PatchParams::apply("test").force();
        api.patch(name, &parameters, &Patch::Apply(&object))
            .await
            .unwrap();
    }

    pub(crate) async fn store_record(&self, disk: DiskId, node: &str, role: &str, state: Value) {
        let record = json!({
            "disk": disk, "node": node, "role": role, "attester": ATTESTER.repeat(32),
            "image": "image", "key_version": 1, "generation": 1, "state": state,
            "boot": "bb".repeat(32), "committed": null, "created": 1, "last_seen": 1,
        });
        let name = format!("node-{disk}");
        self.store("NodeRecord", &name, json!({"record": record}))
            .await;
    }

    pub(crate) async fn store_name(&self, node: &str, disk: DiskId) {
        let attester = ATTESTER.repeat(32);
        let claim = json!({"disk": disk, "boot": "bb".repeat(32), "attester": attester});
        let name = format!("name-{node}");
        self.store("AdmissionClaim", &name, json!({"claim": claim}))
            .await;
    }

    pub(crate) async fn store_entry(&self, node: &str, entry: Value) {
        let name = format!("control-plane-{node}");
        let spec = json!({"control-plane": entry});
        self.store("AdmissionClaim", &name, spec).await;
    }
}

/// Everything that this process logged so far, more of it than an operator can ask for.
pub(crate) fn logs() -> String {
    String::from_utf8_lossy(&LOGS.lock().unwrap()).into_owned()
}

static LOGS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn capture_logs() {
    struct Capture;
    impl Write for Capture {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LOGS.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let logs = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(|| Capture);
    // Another test of this process did it already.
    drop(logs.try_init());
}

pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    trigger: Trigger,
    serving: JoinHandle<()>,
    folder: TempDir,
}

impl Replica {
    pub(crate) fn client(&self, config: Arc<ClientConfig>) -> Client {
        Client::dial(self.address, SERVER_NAME, config)
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

    /// Waits for readiness, or for what is missing to be `missing`.
    pub(crate) async fn becomes(&self, missing: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let (_, body) = self.http("/readyz").await;
            if body.contains(missing) {
                return;
            }
            assert!(Instant::now() < end, "expected {missing}, got {body}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops it and gives the text of its audit log.
    pub(crate) async fn stop(self) -> String {
        self.trigger.request();
        self.serving.await.unwrap();
        fs::read_to_string(self.folder.path().join("audit/audit.00000001.jsonl")).unwrap()
    }
}

/// `GetControlPlaneFiles`, as the join service asks.
pub(crate) async fn files(client: &Client, disk: DiskId) -> Result<Vec<u8>, Code> {
    let request = GetControlPlaneFilesRequest {
        disk_uuid: disk.to_string(),
    };
    let answer = client.0.clone().get_control_plane_files(request).await;
    answer
        .map(|answer| answer.get_ref().files.clone())
        .map_err(|status| status.code())
}

pub(crate) fn client_config(secret: &BTreeMap<String, Vec<u8>>) -> Arc<ClientConfig> {
    let pem = TlsPem {
        certificate: &secret["tls.crt"],
        private_key: &secret["tls.key"],
        peer_ca: &secret["ca.crt"],
    };
    pem.client_config().unwrap()
}

pub(crate) fn disk(number: u8) -> DiskId {
    DiskId::from_bytes([0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, number])
}

pub(crate) fn disk_key(disk: DiskId) -> Vec<u8> {
    let key = hierarchy()
        .derive_state_disk(KeyVersion::FIRST, disk)
        .unwrap();
    key.expose_secret().to_vec()
}

fn hierarchy() -> KeyHierarchy {
    let key = KeyEncryptionKey {
        secret: MasterSecret::from_slice(&MASTER).unwrap(),
        salt: KeySalt([2; 32]),
    };
    KeyHierarchy::new(KeyVersion::FIRST, key)
}

fn values() -> Values {
    let id = hierarchy().derive_cluster_id(&MeasurementSalt([3; 32]));
    Values {
        version: "test".into(),
        kubernetes: KubernetesMaterial {
            api_endpoint: "10.0.0.1:6443".into(),
            certificate_authority: "pem".into(),
            pod_subnet: "10.244.0.0/16".into(),
            service_subnet: "10.96.0.0/12".into(),
            dns_domain: "cluster.local".into(),
            version: "v1.20.2".into(),
        },
        state_folder: "/run/state".into(),
        attestation: Attestation::default(),
        cluster: Some(Cluster {
            keys: ClusterMaterial {
                cluster_id: id.unwrap(),
                key_version: KeyVersion::FIRST,
                salt: "02".repeat(32),
                measurement_salt: "03".repeat(32),
                master_secret: SecretText::new(hex::encode(MASTER)),
            },
            admission: AdmissionMaterial {
                owner: "06".repeat(32),
                seed: SecretText::new("04".repeat(32)),
                certificate: "{}".into(),
            },
            policy: "{}".into(),
            reference_values: "{}".into(),
            control_plane_files: serde_json::from_str::<ControlPlaneFiles>(FILES).unwrap(),
        }),
    }
}
