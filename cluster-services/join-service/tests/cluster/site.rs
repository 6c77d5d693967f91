//! A control plane with our namespace, resources, rights and ConfigMaps; and replicas beside it.

use crate::{
    node::{Machine, Node},
    setup::{CLUSTER, Cluster, Running},
};
use api::{
    CertificateRequests, Class, JoinTicket, JoinTicketRequest, RejoinTicket, RejoinTicketRequest,
    join,
};
use evidence::AdmissionPath;
use hand_off::{JoinMaterial, KubernetesMaterial};
use identity::{DiskId, KeyVersion, NodeName, Role};
use join_service::{Config, StartError};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Node as KubeNode},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_store::{ClusterFacts, KubeStore, NAMESPACE};
use native_kubernetes::{ControlPlane, Kubernetes, Options};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::json;
use service_runtime::config;
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// For all tests that do not harm it; each has names of its own. Its key service runs as long as the
/// program does, and so does its runtime.
static SHARED: LazyLock<(ControlPlane, Site)> = LazyLock::new(|| {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    let begin = || {
        let control_plane = start();
        let site = RUNTIME.block_on(Site::on(&control_plane));
        (control_plane, site)
    };
    thread::scope(|scope| scope.spawn(begin).join().unwrap())
});

/// The address that the API server has for nodes; it is written down, not dialled.
const ENDPOINT: &str = "192.0.2.1:6443";

/// Keys and files of one cluster, and a key service.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) keys: SocketAddr,
    key_service: Option<Running>,
    kubeconfig: String,
    replicas: AtomicU32,
}

/// The kubelet of a node: what it asks to be certified.
pub(crate) struct Kubelet {
    pub(crate) name: String,
    pub(crate) client: KeyPair,
    pub(crate) requests: CertificateRequests,
}

pub(crate) fn shared() -> (&'static ControlPlane, &'static Site) {
    let (control_plane, site) = tokio::task::block_in_place(|| &*SHARED);
    (control_plane, site)
}

/// A control plane with what `kubectl apply` of our manifests makes of it.
pub(crate) fn start() -> ControlPlane {
    let control_plane =
        ControlPlane::start(&Kubernetes::find().unwrap(), Options::default()).unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");
    for file in ["namespace.yaml", "crds.yaml", "rbac.yaml"] {
        kubectl(
            &control_plane,
            &["apply", "-f", &format!("{folder}/{file}")],
        );
    }
    let crds = format!("{folder}/crds.yaml");
    let established = ["--for=condition=Established", "--timeout=60s"];
    kubectl(
        &control_plane,
        &["wait", established[0], established[1], "-f", &crds],
    );
    control_plane
}

fn kubectl(control_plane: &ControlPlane, arguments: &[&str]) {
    let output = control_plane.kubectl().args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {said}");
}

impl Site {
    pub(crate) async fn on(control_plane: &ControlPlane) -> Self {
        let cluster = Cluster::new();
        let key_service = cluster.start_key_service(0).await;
        let account = control_plane
            .service_account(NAMESPACE, "join-service")
            .await;
        let site = Self {
            keys: key_service.address,
            key_service: Some(key_service),
            kubeconfig: account.unwrap().kubeconfig(),
            replicas: AtomicU32::new(0),
            cluster,
        };
        site.publish(control_plane).await;
        site
    }

    pub(crate) async fn stop_key_service(&mut self) {
        self.key_service.take().unwrap().stop().await;
    }

    /// Puts documents and facts into ConfigMaps, as they are in the files.
    pub(crate) async fn publish(&self, control_plane: &ControlPlane) {
        let read = |name| fs::read_to_string(self.cluster.path(name)).unwrap();
        let facts = self.facts(control_plane).config_map().data.unwrap();
        let one = |key: &str, text| BTreeMap::from([(key.to_owned(), text)]);
        let client = control_plane.kube_client().unwrap();
        for (name, data) in [
            (
                "constellation-policy",
                one("policy.json", read("policy.json")),
            ),
            (
                "constellation-reference-values",
                one("reference-values.json", read("reference-values.json")),
            ),
            ("constellation-cluster", facts),
        ] {
            apply(client.clone(), name, data).await;
        }
    }

    pub(crate) fn facts(&self, control_plane: &ControlPlane) -> ClusterFacts {
        ClusterFacts {
            kubernetes: KubernetesMaterial {
                api_endpoint: ENDPOINT.into(),
                certificate_authority: control_plane.ca_pem().into(),
                pod_subnet: "10.244.0.0/16".into(),
                service_subnet: "10.96.0.0/16".into(),
                dns_domain: "cluster.local".into(),
                version: "v1.20.2".into(),
            },
            cluster_id: CLUSTER,
            key_version: KeyVersion::FIRST,
            owner: self.cluster.owner.public_key().fingerprint().to_string(),
        }
    }

    /// A new replica's configuration, and its path.
    pub(crate) fn config(&self, listen: &str) -> PathBuf {
        self.config_with(listen, "127.0.0.1:0")
    }

    pub(crate) fn config_with(&self, listen: &str, admin: &str) -> PathBuf {
        let number = self.replicas.fetch_add(1, Ordering::Relaxed);
        let path = |name: &str| self.cluster.path(name);
        let (audit, kubeconfig) = (path(&format!("audit-{number}")), path("join.kubeconfig"));
        fs::create_dir(&audit).unwrap();
        fs::write(&kubeconfig, &self.kubeconfig).unwrap();
        let text = format!(
            r#"
listen = "{listen}"
admin_listen = "{admin}"
drain_seconds = 2
replica = "join-{number}"
admission_key.secret.credential.path = {admission_key:?}
admission_key.certificate = {certificate:?}
store.kind = "kubernetes"
store.kubeconfig = {kubeconfig:?}
[key_service]
address = "{keys}"
server_name = "key-service"
timeout_seconds = 2
tls = {{ certificate = {pem:?}, private_key = {key:?}, peer_ca = {ca:?} }}
[audit]
directory = {audit:?}
key = {{ credential = {{ path = {audit_key:?} }} }}
file_mebibytes = 1
[limits]
handshake_burst = 1000
"#,
            admission_key = path("admission-key"),
            certificate = path("admission-key.json"),
            keys = self.keys,
            pem = path("join-service.pem"),
            key = path("join-service.key"),
            ca = path("ca.pem"),
            audit_key = path("audit-key"),
        );
        let file = path(&format!("join-{number}.toml"));
        fs::write(&file, text).unwrap();
        file
    }

    pub(crate) async fn try_replica(&self) -> Result<Running, StartError> {
        let config: Config = config::load(&self.config("127.0.0.1:0")).unwrap();
        Running::join_service(&config).await
    }

    pub(crate) async fn replica(&self) -> Running {
        self.try_replica().await.unwrap()
    }

    pub(crate) async fn dial(
        &self,
        address: SocketAddr,
        machine: &Machine,
        path: AdmissionPath,
    ) -> Node {
        let owner = self.cluster.owner.public_key().fingerprint();
        Node::dial(address, machine, owner, path).await.unwrap()
    }

    pub(crate) async fn join(&self, service: &Running, machine: &Machine) -> Node {
        self.dial(service.address, machine, AdmissionPath::Join)
            .await
    }

    pub(crate) async fn rejoin(&self, service: &Running, machine: &Machine) -> Node {
        self.dial(service.address, machine, AdmissionPath::Rejoin)
            .await
    }

    /// A machine that has joined and committed as a worker of this name.
    pub(crate) async fn worker(&self, service: &Running, name: &str) -> (Machine, DiskId) {
        let machine = self.cluster.machine();
        let node = self.join(service, &machine).await;
        let disk = node.register().await;
        let ticket = ask_join(&node, disk, name, Some(&Kubelet::new(name))).await;
        ticket.unwrap();
        assert_eq!(node.commit(disk, 1).await, Ok(1));
        (machine.reboot(), disk)
    }
}

pub(crate) async fn apply(client: Client, name: &str, data: BTreeMap<String, String>) {
    let config_maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let mut config_map = ConfigMap {
        data: Some(data),
        ..ConfigMap::default()
    };
    config_map.metadata.name = Some(name.into());
    let parameters = PatchParams::apply("test").force();
    config_maps
        .patch(name, &parameters, &Patch::Apply(&config_map))
        .await
        .unwrap();
}

impl Kubelet {
    /// Asks as the agent does, but for the address: nobody gets a certificate for a loopback address.
    pub(crate) fn new(name: &str) -> Self {
        Self::asking(name, &[name])
    }

    pub(crate) fn asking(name: &str, names: &[&str]) -> Self {
        let client = KeyPair::generate().unwrap();
        let serving = KeyPair::generate().unwrap();
        Self {
            name: name.to_owned(),
            requests: CertificateRequests {
                kubelet_client: request(name, &[], &client),
                kubelet_serving: request(name, names, &serving),
            },
            client,
        }
    }

    /// Its view of the API server.
    pub(crate) async fn client(
        &self,
        control_plane: &ControlPlane,
        material: &JoinMaterial,
    ) -> Client {
        let data = |text: &str| ByteString(text.as_bytes().to_vec());
        let cluster = json!({
            "server": format!("https://{}", control_plane.api_address()),
            "certificate-authority-data": data(control_plane.ca_pem()),
        });
        let user = json!({
            "client-certificate-data": data(&material.kubelet.client_certificate),
            "client-key-data": data(&self.client.serialize_pem()),
        });
        let kubeconfig: Kubeconfig = serde_json::from_value(json!({
            "clusters": [{"name": "x", "cluster": cluster}],
            "users": [{"name": "x", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "current-context": "x",
        }))
        .unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        Client::try_from(config.unwrap()).unwrap()
    }
}

fn request(name: &str, names: &[&str], key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{name}"));
    let name = |name: &&str| match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName((*name).try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(name).collect();
    params.serialize_request(key).unwrap().der().to_vec()
}

pub(crate) async fn ask_join(
    node: &Node,
    disk: DiskId,
    name: &str,
    kubelet: Option<&Kubelet>,
) -> Result<(Vec<u8>, JoinMaterial), Class> {
    ask_join_as(node, disk, (name, Role::Worker), kubelet).await
}

pub(crate) async fn ask_join_as(
    node: &Node,
    disk: DiskId,
    (name, role): (&str, Role),
    kubelet: Option<&Kubelet>,
) -> Result<(Vec<u8>, JoinMaterial), Class> {
    let request = JoinTicketRequest {
        disk,
        node_name: name.parse().unwrap(),
        role,
        certificate_requests: kubelet.map(|kubelet| kubelet.requests.clone()),
    };
    let request = join::IssueJoinTicketRequest::from(request);
    let answer: Result<join::IssueJoinTicketResponse, _> =
        node.call("IssueJoinTicket", request).await;
    let ticket = JoinTicket::try_from(answer.map_err(|error| error.class())?).unwrap();
    let material = open(node, &ticket.material.unwrap());
    let binding = node.client.peer().binding();
    let key = node.sealing_key.open_data_key(&ticket.data_key, binding);
    Ok((key.unwrap().expose_secret().to_vec(), material))
}

pub(crate) async fn ask_rejoin(
    node: &Node,
    disk: DiskId,
    kubelet: Option<&Kubelet>,
) -> Result<(NodeName, Option<JoinMaterial>), Class> {
    let request = RejoinTicketRequest {
        disk,
        key_version: KeyVersion::FIRST,
        certificate_requests: kubelet.map(|kubelet| kubelet.requests.clone()),
    };
    let request = join::IssueRejoinTicketRequest::from(request);
    let answer: Result<join::IssueRejoinTicketResponse, _> =
        node.call("IssueRejoinTicket", request).await;
    let ticket = RejoinTicket::try_from(answer.map_err(|error| error.class())?).unwrap();
    let material = ticket.material.as_ref().map(|sealed| open(node, sealed));
    Ok((ticket.node_name, material))
}

fn open(node: &Node, sealed: &api::SealedSecret) -> JoinMaterial {
    let binding = node.client.peer().binding();
    let text = node.sealing_key.open_material(sealed, binding).unwrap();
    serde_json::from_slice(&text).unwrap()
}

pub(crate) fn store(control_plane: &ControlPlane) -> KubeStore {
    KubeStore::new(control_plane.kube_client().unwrap())
}

pub(crate) fn kube_nodes(control_plane: &ControlPlane) -> Api<KubeNode> {
    Api::all(control_plane.kube_client().unwrap())
}

pub(crate) fn kube_node(name: &str) -> KubeNode {
    let mut node = KubeNode::default();
    node.metadata.name = Some(name.to_owned());
    node
}

/// Waits, but not for ever.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < end, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
