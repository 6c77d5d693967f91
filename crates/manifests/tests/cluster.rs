//! The manifests on a real API server: taken whole, twice, and with the rights that they give.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lint knows test functions only"
)]

#[path = "rendered/support.rs"]
mod support;

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::{ConfigMap, Node, Pod, Secret},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use manifests::{ApplyError, Object, apply, render};
use native_kubernetes::{ControlPlane, Kubernetes, Options};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::LazyLock,
    time::{Duration, Instant},
};
use support::values;
use tokio::sync::OnceCell;

const NAMESPACE: &str = "constellation-system";

static SHARED: LazyLock<ControlPlane> = LazyLock::new(|| {
    ControlPlane::start(&Kubernetes::find().unwrap(), Options::default()).unwrap()
});

/// The shared control plane with all objects. Each test has a runtime, and so a client, of its own.
async fn installed() -> Client {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let client = SHARED.kube_client().unwrap();
    let install = async || {
        let objects = render(&values()).unwrap();
        apply(&client, &objects, |_| {}).await.unwrap();
    };
    APPLIED.get_or_init(install).await;
    client
}

fn api(client: &Client, object: &Object) -> Api<DynamicObject> {
    let version = object.json["apiVersion"].as_str().unwrap();
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, object.kind()));
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Where `stored` lacks something of `sent`; the server adds, it must not drop.
fn dropped(path: &str, sent: &Value, stored: &Value) -> Option<String> {
    match (sent, stored) {
        (Value::Object(sent), Value::Object(stored)) => sent.iter().find_map(|(key, value)| {
            let found = stored.get(key).unwrap_or(&Value::Null);
            dropped(&format!("{path}/{key}"), value, found)
        }),
        (Value::Array(sent), Value::Array(stored)) if sent.len() == stored.len() => {
            let pairs = sent.iter().zip(stored).enumerate();
            pairs
                .filter_map(|(i, (a, b))| dropped(&format!("{path}/{i}"), a, b))
                .next()
        }
        // A server of before a field became empty by default leaves out what is empty.
        (Value::Object(sent), Value::Null) if sent.is_empty() => None,
        _ => (sent != stored).then(|| format!("{path}: sent {sent}, stored {stored}")),
    }
}

/// A server of 1.20 drops fields that it does not know without a word.
#[tokio::test]
async fn every_field_arrives() {
    let client = installed().await;
    for object in render(&values()).unwrap() {
        let stored = api(&client, &object).get(object.name()).await.unwrap();
        let stored = serde_json::to_value(stored).unwrap();
        assert_eq!(dropped("", &object.json, &stored), None, "{object:?}");
    }
}

#[tokio::test]
async fn applying_again_changes_nothing() {
    let client = installed().await;
    let mut objects = render(&values()).unwrap();
    // Another test changes these meanwhile.
    objects.retain(|object| !["constellation-policy", "service-ca"].contains(&object.name()));
    let versions = async || {
        let mut versions = Vec::new();
        for object in &objects {
            let stored = api(&client, object).get(object.name()).await.unwrap();
            // Status is written by controllers meanwhile; the generation is the content's.
            let (name, meta) = (format!("{object:?}"), stored.metadata);
            let content = stored.data.get("data").cloned();
            versions.push((name, meta.uid, meta.generation, content));
        }
        versions
    };
    let before = versions().await;
    let mut seen = Vec::new();
    let progress = |applied: manifests::Applied<'_>| seen.push((applied.done, applied.of));
    apply(&client, &objects, progress).await.unwrap();
    assert_eq!(versions().await, before);
    assert_eq!(seen.len(), objects.len());
    assert_eq!(seen.last(), Some(&(objects.len(), objects.len())));
}

/// Applying again leaves what the key service wrote, and does not overwrite what the operator changed.
#[tokio::test]
async fn others_changes_stay() {
    let client = installed().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let mut map = maps.get("service-ca").await.unwrap();
    map.data = Some([("ca.crt".to_owned(), "pem".to_owned())].into());
    maps.replace("service-ca", &PostParams::default(), &map)
        .await
        .unwrap();
    let upgrade = {
        let mut values = values();
        values.cluster = None;
        render(&values).unwrap()
    };
    apply(&client, &upgrade, |_| {}).await.unwrap();
    let map = maps.get("service-ca").await.unwrap();
    assert_eq!(map.data.unwrap()["ca.crt"], "pem");

    let mut changed = values();
    changed.cluster.as_mut().unwrap().policy = "{\"policy\": 2}".into();
    let newer = render(&changed).unwrap();
    let is_policy = |o: &&Object| o.name() == "constellation-policy";
    let newer = newer.iter().find(is_policy).unwrap();
    let by = PatchParams::apply("operator").force();
    let patch = Patch::Apply(&newer.json);
    maps.patch("constellation-policy", &by, &patch)
        .await
        .unwrap();
    let mine: Vec<_> = render(&values())
        .unwrap()
        .into_iter()
        .filter(|o| is_policy(&o))
        .collect();
    let conflict = apply(&client, &mine, |_| {}).await.unwrap_err();
    assert!(
        matches!(conflict, ApplyError::Conflict { .. }),
        "{conflict}"
    );
    assert!(!conflict.is_unavailable());
    let map = maps.get("constellation-policy").await.unwrap();
    assert_eq!(map.data.unwrap()["policy.json"], "{\"policy\": 2}");
    // As it was, for the other tests.
    let back = Patch::Apply(&mine[0].json);
    let ours = PatchParams::apply(manifests::FIELD_MANAGER).force();
    maps.patch("constellation-policy", &ours, &back)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_master_secret_cannot_be_replaced() {
    let client = installed().await;
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let patch = json!({"data": {"secret": "AAAA"}});
    let changed = secrets
        .patch(
            "master-secret",
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await;
    assert!(matches!(changed, Err(kube::Error::Api(status)) if status.code == 422));
}

/// Asks the authorizer: who, verb, group, resource[/subresource], namespace, name; `-` for none.
async fn may(client: &Client, question: &str) -> bool {
    let words: Vec<_> = question.split_whitespace().collect();
    let [service, verb, group, resource, namespace, name] = words[..] else {
        panic!("{question}");
    };
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let text = |text: &str| Some(text.to_owned()).filter(|text| !matches!(text.as_str(), "" | "-"));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{NAMESPACE}:{service}")),
            groups: Some(vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{NAMESPACE}"),
                "system:authenticated".into(),
            ]),
            resource_attributes: Some(ResourceAttributes {
                group: text(group),
                name: text(name),
                namespace: text(namespace),
                resource: text(resource),
                subresource: text(subresource),
                verb: text(verb),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap();
    answer.status.unwrap().allowed
}

const ALLOWED: &str = "
join-service create constellation.internal noderecords constellation-system -
join-service update constellation.internal admissionclaims constellation-system boot-1
join-service update constellation.internal noderecords/status constellation-system node-1
join-service get - configmaps constellation-system constellation-policy
join-service create certificates.k8s.io certificatesigningrequests - -
join-service update certificates.k8s.io certificatesigningrequests/approval - a
join-service approve certificates.k8s.io signers - kubernetes.io/kubelet-serving
join-service watch - nodes - -
join-service get coordination.k8s.io leases kube-node-lease worker-1
key-service get constellation.internal noderecords constellation-system node-1
key-service get constellation.internal admissionclaims constellation-system name-worker-1
key-service update - secrets constellation-system join-service-tls
key-service update - configmaps constellation-system service-ca
";

const DENIED: &str = "
# Secrets: of others, all of them, or new ones.
join-service get - secrets constellation-system master-secret
join-service get - secrets constellation-system control-plane-files
join-service get - secrets constellation-system join-service-tls
key-service get - secrets constellation-system master-secret
key-service get - secrets constellation-system join-service-admission
key-service list - secrets constellation-system -
key-service create - secrets constellation-system -
key-service get - secrets kube-system join-service-tls
# ConfigMaps that are not theirs, and the documents, which only the owner changes.
join-service get - configmaps constellation-system service-ca
join-service update - configmaps constellation-system constellation-policy
join-service get - configmaps kube-system kubeadm-config
key-service update - configmaps constellation-system constellation-policy
# Records and claims are never deleted; the key service writes none.
join-service delete constellation.internal noderecords constellation-system node-1
join-service delete constellation.internal admissionclaims constellation-system name-a
key-service create constellation.internal admissionclaims constellation-system -
key-service update constellation.internal noderecords constellation-system node-1
# Nodes and pods.
join-service update - nodes - worker-1
join-service delete - nodes - worker-1
join-service create - pods constellation-system -
key-service get - nodes - worker-1
join-service update coordination.k8s.io leases kube-node-lease worker-1
# Certificates: of other signers, or by the key service at all.
join-service approve certificates.k8s.io signers - kubernetes.io/kube-apiserver-client
join-service approve certificates.k8s.io signers - kubernetes.io/legacy-unknown
join-service sign certificates.k8s.io signers - kubernetes.io/kube-apiserver-client-kubelet
join-service update certificates.k8s.io certificatesigningrequests/status - a
key-service approve certificates.k8s.io signers - kubernetes.io/kube-apiserver-client-kubelet
key-service create certificates.k8s.io certificatesigningrequests - -
# More rights than they have.
join-service escalate rbac.authorization.k8s.io clusterroles - constellation-join-service
join-service bind rbac.authorization.k8s.io clusterroles - cluster-admin
join-service create rbac.authorization.k8s.io clusterrolebindings - -
join-service impersonate - users - kubernetes-admin
join-service create - serviceaccounts/token constellation-system key-service
key-service update rbac.authorization.k8s.io roles constellation-system key-service
# The verification service.
verification-service get - nodes - worker-1
verification-service get - secrets constellation-system join-service-tls
verification-service get constellation.internal noderecords constellation-system node-1
";

fn questions(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[tokio::test]
async fn services_may_do_their_work() {
    let client = installed().await;
    for question in questions(ALLOWED) {
        assert!(may(&client, question).await, "{question}");
    }
}

#[tokio::test]
async fn services_may_do_nothing_else() {
    let client = installed().await;
    for question in questions(DENIED) {
        assert!(!may(&client, question).await, "{question}");
    }
}

/// Which services the DaemonSet controller sends to which nodes: both names of the role, with and
/// without taint, and whatever else a node is kept free by.
#[tokio::test]
async fn pods_go_where_they_belong() {
    let client = installed().await;
    let nodes: Api<Node> = Api::all(client.clone());
    let master = "node-role.kubernetes.io/master";
    let control_plane = "node-role.kubernetes.io/control-plane";
    for (name, label, taint) in [
        ("cp-old", master, master),
        ("cp-new", control_plane, control_plane),
        ("worker", "kind", "dedicated"),
    ] {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {label: ""}},
            "spec": {"taints": [{"key": taint, "effect": "NoSchedule"}]},
        });
        let parameters = PatchParams::apply("test").force();
        nodes
            .patch(name, &parameters, &Patch::Apply(&node))
            .await
            .unwrap();
    }
    let expected: BTreeSet<_> = [
        ("join-service", "cp-new"),
        ("join-service", "cp-old"),
        ("key-service", "cp-new"),
        ("key-service", "cp-old"),
        ("verification-service", "cp-new"),
        ("verification-service", "cp-old"),
        ("verification-service", "worker"),
    ]
    .map(|(service, node)| (service.to_owned(), node.to_owned()))
    .into();
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let found = pods.list(&ListParams::default()).await.unwrap();
        let found: BTreeSet<_> = found.items.iter().map(placed).collect();
        if found == expected {
            break;
        }
        // One too many never goes away again.
        assert!(found.is_subset(&expected), "{found:?}");
        assert!(Instant::now() < end, "{found:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The service of a pod, and the node that its DaemonSet wants it on.
fn placed(pod: &Pod) -> (String, String) {
    let pod = serde_json::to_value(pod).unwrap();
    let text = |pointer: &str| pod.pointer(pointer).unwrap().as_str().unwrap().to_owned();
    let node = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    (text("/metadata/labels/app.kubernetes.io~1name"), text(node))
}

/// The same by real requests with the account's own token.
#[tokio::test]
async fn a_refusal_is_a_refusal() {
    installed().await;
    let client = SHARED
        .service_account_client(NAMESPACE, "key-service")
        .await
        .unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    secrets.get("join-service-tls").await.unwrap();
    for name in [
        "master-secret",
        "control-plane-files",
        "join-service-admission",
    ] {
        let refused = secrets.get(name).await;
        assert!(
            matches!(refused, Err(kube::Error::Api(status)) if status.code == 403),
            "{name}"
        );
    }
    assert!(secrets.list(&ListParams::default()).await.is_err());
}
