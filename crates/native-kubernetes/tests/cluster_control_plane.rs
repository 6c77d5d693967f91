//! A control plane on loopback is the real thing.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

use k8s_openapi::api::{
    certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition,
        CertificateSigningRequestSpec, CertificateSigningRequestStatus,
    },
    core::v1::{ConfigMap, Namespace, Node, Secret},
};
use kube::{
    Api, Error,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use native_kubernetes::{ControlPlane, Kubernetes, Options};
use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{Duration, Instant},
};

/// One for all tests here that do not harm it.
static SHARED: LazyLock<ControlPlane> = LazyLock::new(|| start(Options::default()));

/// How long a controller may take to do its work.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(options: Options) -> ControlPlane {
    let started = Instant::now();
    let control_plane = ControlPlane::start(&Kubernetes::find().unwrap(), options).unwrap();
    println!("a control plane started in {:.1?}", started.elapsed());
    control_plane
}

fn create() -> PostParams {
    PostParams::default()
}

/// The HTTP status of a refusal.
fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) -> u16 {
    match answer.unwrap_err() {
        Error::Api(status) => status.code,
        other => panic!("no answer: {other}"),
    }
}

fn node(name: &str) -> Node {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node
}

#[tokio::test]
async fn the_administrator_may_and_others_may_not() {
    let nodes: Api<Node> = Api::all(SHARED.kube_client().unwrap());
    nodes.list(&ListParams::default()).await.unwrap();

    let list = async |access: native_kubernetes::Access| {
        let nodes: Api<Node> = Api::all(access.client().unwrap());
        refused(nodes.list(&ListParams::default()).await)
    };
    assert_eq!(list(SHARED.anonymous()).await, 403);
    assert_eq!(list(SHARED.access_as("somebody", &[]).unwrap()).await, 403);
    let groups = ["readers", "writers"];
    let access = SHARED.access_as("somebody", &groups).unwrap();
    assert_eq!(list(access).await, 403);
    assert_eq!(
        list(SHARED.access_with_token("abcdef.0123456789abcdef")).await,
        401
    );
}

#[tokio::test]
async fn a_service_account_may_only_what_a_role_says() {
    let client = SHARED
        .service_account_client("default", "reader")
        .await
        .unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    assert_eq!(refused(maps.list(&ListParams::default()).await), 403);
}

/// Node authorizer and `NodeRestriction`.
#[tokio::test]
async fn a_node_is_itself_and_no_other() {
    let client = SHARED
        .client_as("system:node:mine", &["system:nodes"])
        .unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&create(), &node("mine")).await.unwrap();
    assert_eq!(refused(nodes.create(&create(), &node("other")).await), 403);
    let secrets: Api<Secret> = Api::namespaced(client, "kube-system");
    assert_eq!(refused(secrets.list(&ListParams::default()).await), 403);
}

#[tokio::test]
async fn an_approved_certificate_request_is_signed() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let names = &mut params.distinguished_name;
    names.push(rcgen::DnType::CommonName, "system:node:signed");
    names.push(rcgen::DnType::OrganizationName, "system:nodes");
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    // The signer of 1.20 wants exactly these, for elliptic curves too.
    let usages = ["client auth", "digital signature", "key encipherment"];
    let mut request = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: k8s_openapi::ByteString(pem.into_bytes()),
            signer_name: "kubernetes.io/kube-apiserver-client-kubelet".to_owned(),
            usages: Some(usages.map(Into::into).into()),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    request.metadata.name = Some("signed".to_owned());
    let requests: Api<CertificateSigningRequest> = Api::all(SHARED.kube_client().unwrap());
    let mut request = requests.create(&create(), &request).await.unwrap();
    request.status = Some(CertificateSigningRequestStatus {
        conditions: Some(vec![CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            ..CertificateSigningRequestCondition::default()
        }]),
        ..CertificateSigningRequestStatus::default()
    });
    requests
        .replace_subresource("approval", "signed", &create(), &request)
        .await
        .unwrap();
    let end = Instant::now() + PATIENCE;
    let certificate = loop {
        let request = requests.get("signed").await.unwrap();
        if let Some(certificate) = request.status.and_then(|status| status.certificate) {
            break certificate.0;
        }
        assert!(Instant::now() < end, "nobody signs");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(certificate.starts_with(b"-----BEGIN CERTIFICATE-----"));
}

/// Bootstrap tokens authenticate, have no right beyond it, and are removed when they expire.
#[tokio::test]
async fn a_bootstrap_token_works_until_it_expires() {
    let entries = [
        ("token-id", "fedcba"),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-authentication", "true"),
    ];
    let data: BTreeMap<String, String> = entries
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let mut secret = Secret {
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        string_data: Some(data),
        ..Secret::default()
    };
    secret.metadata.name = Some("bootstrap-token-fedcba".to_owned());
    let secrets: Api<Secret> = Api::namespaced(SHARED.kube_client().unwrap(), "kube-system");
    secrets.create(&create(), &secret).await.unwrap();
    let access = SHARED.access_with_token("fedcba.0123456789abcdef");
    let nodes: Api<Node> = Api::all(access.client().unwrap());
    let end = Instant::now() + PATIENCE;
    // The API server learns of the token by a watch.
    while refused(nodes.list(&ListParams::default()).await) != 403 {
        assert!(Instant::now() < end, "the token is refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let past = serde_json::json!({ "stringData": { "expiration": "2020-01-01T00:00:00Z" } });
    let merge = PatchParams::default();
    secrets
        .patch("bootstrap-token-fedcba", &merge, &Patch::Merge(past))
        .await
        .unwrap();
    while secrets
        .get_opt("bootstrap-token-fedcba")
        .await
        .unwrap()
        .is_some()
    {
        assert!(Instant::now() < end, "the expired token stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The API server remembers a token that was good for ten seconds.
    while refused(nodes.list(&ListParams::default()).await) != 401 {
        assert!(Instant::now() < end, "the removed token is accepted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn kubectl_takes_the_kubeconfig() {
    let mut kubectl = SHARED.kubectl();
    let output = kubectl
        .args(["get", "namespaces", "--output=name"])
        .output()
        .unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert!(names.contains("namespace/kube-system"), "{names}");
}

/// What is stored outlives the API server; while it is away or hangs, calls fail or wait.
#[tokio::test]
async fn the_api_server_goes_and_comes_back() {
    let mut own = start(Options::default());
    let client = own.kube_client().unwrap();
    let namespaces: Api<Namespace> = Api::all(client);
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some("kept".to_owned());
    namespaces.create(&create(), &namespace).await.unwrap();

    own.kill_api_server().unwrap();
    let gone = namespaces.get("kept").await.unwrap_err();
    assert!(!matches!(gone, Error::Api(_)), "{gone}");
    own.start_api_server().unwrap();
    namespaces.get("kept").await.unwrap();

    own.pause_api_server().unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(300), namespaces.get("kept"));
    assert!(answer.await.is_err(), "a stopped process answers");
    own.resume_api_server().unwrap();
    namespaces.get("kept").await.unwrap();

    own.delay_etcd(Duration::from_millis(200));
    let started = Instant::now();
    namespace.metadata.name = Some("late".to_owned());
    namespaces.create(&create(), &namespace).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_millis(400),
        "etcd is not slow"
    );

    let dir = own.dir().to_owned();
    drop(own);
    assert!(!dir.exists());
}
