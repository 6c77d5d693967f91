//! A cluster on isolated nodes: the first node, a worker, kills at every phase, a pod that answers through a
//! Service, a rejoin.
//!
//! The agent and the join service have no part in these tests: the hand-off is written here, with
//! certificates that an administrator had the cluster's signers issue. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lints know test functions only"
)]

mod hand_over;
mod operator;
mod site;

use native_kubernetes::{IsolatedNode, kubectl};
use operator::Operator;
use site::{Site, eventually};
use std::time::Duration;

/// Lasting and passing phases of a first node at whose begin the bootstrapper is killed. What is made in one of
/// them is half made then, now and then.
const KILLED_AT: &[&str] = &[
    "images",
    "certificates",
    "kubelet-certificates",
    "static-pods",
    "first-pod-network",
    "start-kubelet",
    "api-server",
    "controllers",
    "first-node-object",
    "rules",
    "upload-configuration",
    "kube-proxy",
    "node-ready",
    "record-store",
    "node-record",
    "services",
];

const START_KUBELET: &str = "/run/constellation/start-kubelet";

const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: worker-0
  containers:
  - name: web
    image: "test.internal/busybox:1"
    imagePullPolicy: Never
    command: ["/bin/busybox", "sh", "-c", "busybox mkdir /w; echo answer > /w/index.html; exec busybox httpd -f -p 8080 -h /w"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIP: 10.96.0.80, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: first-0
  tolerations: [{operator: Exists}]
  restartPolicy: Never
  containers:
  - name: client
    image: "test.internal/busybox:1"
    imagePullPolicy: Never
    command: ["/bin/busybox", "sh", "-c", "until busybox wget -q -O - http://10.96.0.80/; do busybox sleep 1; done"]
"#;

#[test]
fn a_cluster_is_made_through_kills_and_its_worker_comes_back() {
    let mut site = Site::start().unwrap();

    let mut first = site.node("first-0", 1).unwrap();
    let operator = Operator::generate();
    site.hand_over_init(&first, &operator).unwrap();
    first.serve_kubelet(START_KUBELET).unwrap();
    for phase in KILLED_AT {
        let mut run = site.bootstrap(&first).unwrap();
        run.wait_for_phase(phase);
        run.process.kill().unwrap();
    }
    let run = site.bootstrap(&first).unwrap();
    run.wait_for("this node is ready");
    assert!(
        run.log()
            .contains(r#""message":"done before","phase":"certificates""#),
        "{}",
        run.log()
    );
    assert!(kubectl_on(&first, &["get", "node", "first-0"]).contains(" Ready "));
    nothing_approves_strangers(&first);
    the_operator_alone_follows(&site, &operator);
    run.wait_for("the operator has the result");
    eventually(Duration::from_secs(10), || {
        !site.exists(&first, "/run/constellation/material.json")
    });

    let mut worker = site.node("worker-0", 2).unwrap();
    site.hand_over_join(&first, &worker, "join").unwrap();
    worker.serve_kubelet(START_KUBELET).unwrap();
    for phase in [
        "kubelet-certificates",
        "node-object",
        "pod-network",
        "start-kubelet",
    ] {
        let mut run = site.bootstrap(&worker).unwrap();
        run.wait_for_phase(phase);
        run.process.kill().unwrap();
    }
    let worker_run = site.bootstrap(&worker).unwrap();
    worker_run.wait_for("this node is ready");
    eventually(Duration::from_secs(10), || {
        !site.exists(&worker, "/run/constellation/kubelet-client.key")
    });
    assert_eq!(
        kubectl_on(&first, &["get", "csr", "--output", "name"]),
        "",
        "the kubelet asked for more"
    );
    site.apply(&first, WEB).unwrap();
    answer(&first);

    // The next boot: other keys, other certificates, the same node.
    let client = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    let before = site.certificate(&worker, client).unwrap();
    drop(worker_run);
    worker.power_off().unwrap();
    worker.power_on(&site.network).unwrap();
    site.hand_over_join(&first, &worker, "rejoin").unwrap();
    worker.serve_kubelet(START_KUBELET).unwrap();
    let worker_run = site.bootstrap(&worker).unwrap();
    worker_run.wait_for("this node is ready");
    assert_ne!(site.certificate(&worker, client).unwrap(), before);
    kubectl_on(&first, &["delete", "pod", "client", "--force"]);
    site.apply(&first, WEB).unwrap();
    answer(&first);

    let of_the_kubelet = "for p in /proc/[0-9]*; do \
        read -r name < $p/comm && [ $name = kubelet ] && tr '\\0' '\\n' < $p/environ; done; true";
    let environment = worker.run(&["sh", "-c", of_the_kubelet]).unwrap();
    assert!(
        environment.contains("AWS_EC2_METADATA_DISABLED=true"),
        "{environment}"
    );

    // Whom the operator removes is not brought back by a bootstrapper that starts anew.
    drop(worker_run);
    kubectl_on(&first, &["delete", "node", "worker-0"]);
    let mut worker_run = site.bootstrap(&worker).unwrap();
    worker_run.wait_for_phase("pod-network");
    let nodes = kubectl_on(&first, &["get", "nodes", "--output", "name"]);
    assert_eq!(nodes.trim(), "node/first-0");
    drop(worker_run);
    site.passed([first, worker]);
}

#[test]
fn another_control_plane_joins_and_both_come_back_by_a_recovery() {
    let mut site = Site::start().unwrap();
    let mut first = site.node("first-0", 1).unwrap();
    let operator = Operator::generate();
    site.hand_over_init(&first, &operator).unwrap();
    first.serve_kubelet(START_KUBELET).unwrap();
    let run = site.bootstrap(&first).unwrap();
    run.wait_for("this node is ready");

    let mut second = site.node("second-0", 3).unwrap();
    site.hand_over_join(&first, &second, "join").unwrap();
    second.serve_kubelet(START_KUBELET).unwrap();
    for phase in ["join-certificates", "etcd-member", "mark-joined"] {
        let mut run = site.bootstrap(&second).unwrap();
        run.wait_for_phase(phase);
        run.process.kill().unwrap();
    }
    let second_run = site.bootstrap(&second).unwrap();
    second_run.wait_for("this node is ready");
    let nodes = kubectl_on(&first, &["get", "nodes"]);
    assert_eq!(nodes.matches("control-plane").count(), 2, "{nodes}");

    // By this the bootstrapper knows whose leases of an earlier boot it may release.
    for name in ["kube-controller-manager", "kube-scheduler"] {
        let holder = "jsonpath={.spec.holderIdentity}";
        let words = ["-n", "kube-system", "get", "lease", name, "-o", holder];
        let holder = kubectl_on(&first, &words);
        let ours = ["first-0_", "second-0_"].iter();
        assert!(
            ours.into_iter().any(|node| holder.starts_with(node)),
            "{holder}"
        );
    }

    // All of the cluster is down; nobody can issue a ticket. The power went while the first one renewed its
    // certificates; the other one's are young.
    first
        .write("/etc/kubernetes/renewing-certificates", "")
        .unwrap();
    let serving = |node: &IsolatedNode| node.read("/etc/kubernetes/pki/apiserver.crt").unwrap();
    let before = [&first, &second].map(serving);
    drop((run, second_run));
    for node in [&mut first, &mut second] {
        node.power_off().unwrap();
    }
    for node in [&mut first, &mut second] {
        node.power_on(&site.network).unwrap();
        Site::hand_over_recovery(node).unwrap();
        node.serve_kubelet(START_KUBELET).unwrap();
    }
    let runs = [&first, &second].map(|node| site.bootstrap(node).unwrap());
    for run in &runs {
        run.wait_for("this node is ready");
    }
    assert_ne!(serving(&first), before[0], "not renewed");
    assert_eq!(serving(&second), before[1], "renewed too early");
    site.passed([first, second]);
}

/// No bootstrap token, nobody who would get one's requests approved, and no request.
fn nothing_approves_strangers(first: &IsolatedNode) {
    let bindings = kubectl_on(first, &["get", "clusterrolebindings", "--output", "name"]);
    for absent in ["kubelet-bootstrap", "node-autoapprove-bootstrap"] {
        assert!(!bindings.contains(absent), "{bindings}");
    }
    assert!(
        bindings.contains("kubeadm:node-autoapprove-certificate-rotation"),
        "{bindings}"
    );
    let secrets = kubectl_on(first, &["get", "secrets", "--all-namespaces"]);
    assert!(
        !secrets.contains("bootstrap.kubernetes.io/token"),
        "{secrets}"
    );
    assert_eq!(kubectl_on(first, &["get", "csr", "--output", "name"]), "");
}

fn the_operator_alone_follows(site: &Site, operator: &Operator) {
    let address = "10.10.0.1:30091".parse().unwrap();
    let stranger = operator.with_another_certificate();
    let refused = site.network.inside(|| stranger.result(address)).unwrap();
    assert!(refused.is_err(), "a stranger was let in");
    let events = site
        .network
        .inside(|| operator.follow(address))
        .unwrap()
        .unwrap();
    assert!(
        events.iter().any(|event| event == "phase node-record"),
        "{events:?}"
    );
    assert_eq!(events.last().map(String::as_str), Some("succeeded"));
    let result = site
        .network
        .inside(|| operator.result(address))
        .unwrap()
        .unwrap();
    assert!(result.kubeconfig.contains("client-key-data"));
    let record: serde_json::Value = serde_json::from_slice(&result.node_record).unwrap();
    assert_eq!(record["node"], "first-0");
    assert_eq!(record["state"], "active");
    // What the CLI takes, and it takes no other field.
    let fields: Vec<_> = record
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = "attester created disk generation image key_version last_seen node role state";
    assert_eq!(fields.join(" "), expected);
    site.network
        .inside(|| operator.finish(address))
        .unwrap()
        .unwrap();
}

fn answer(first: &IsolatedNode) {
    eventually(Duration::from_secs(90), || {
        kubectl(first, &["logs", "client"]).is_ok_and(|log| log.contains("answer"))
    });
}

fn kubectl_on(first: &IsolatedNode, arguments: &[&str]) -> String {
    kubectl(first, arguments).unwrap()
}
