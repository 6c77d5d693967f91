//! `constellation status` and `verify --kubeconfig` against a real API server.
#![cfg(test)]

#[path = "support/operator.rs"]
mod operator;
#[path = "support/running.rs"]
mod running;

use admission::{Adoption, Context, OperatorAction, Timestamp, operate};
use appraisal::AttesterIdentity;
use identity::{DiskId, Generation, KeyVersion, Role};
use k8s_openapi::api::core::v1::Node as KubernetesNode;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use kube_store::{KubeStore, NAMESPACE};
use native_kubernetes::{ControlPlane, Kubernetes, Options};
use running::{CLUSTER, Node, SHARED, printed, verify};
use serde_json::{Value, json};
use std::fs;
use tokio::runtime::Runtime;

/// Addresses of this machine that nobody else's tests use, with the port that nodes have.
const WORKER: &str = "127.77.0.1";
const IMPOSTOR: &str = "127.77.0.2";

fn start() -> ControlPlane {
    let control_plane = ControlPlane::start(&Kubernetes::find().unwrap(), Options::default());
    let control_plane = control_plane.unwrap();
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/crds.yaml");
    let wait = "--for=condition=Established";
    for arguments in [
        &["create", "namespace", NAMESPACE][..],
        &["apply", "-f", crds],
        &["wait", wait, "--timeout=60s", "-f", crds],
    ] {
        let output = control_plane.kubectl().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {said}");
    }
    control_plane
}

const CONTEXT: Context = Context {
    now: Timestamp(1_700_000_000),
    key_version: KeyVersion::FIRST,
    live_until: None,
};

/// The record of a worker that was admitted.
async fn record(store: &KubeStore, name: &str, disk: u8, attester: AttesterIdentity) {
    let action = OperatorAction::Adopt(Adoption {
        disk: DiskId::from_bytes([disk; 16]),
        node: name.parse().unwrap(),
        role: Role::Worker,
        attester,
        generation: Generation::FIRST,
    });
    let settled = store.settle(|snapshot| operate(&action, &CONTEXT, snapshot));
    settled.await.map(|done| drop(done.audited())).unwrap();
}

/// The object of a node whose kubelet says that it is ready.
async fn node(nodes: &Api<KubernetesNode>, name: &str, address: &str) {
    let mut object = KubernetesNode::default();
    object.metadata.name = Some(name.into());
    let created = nodes.create(&PostParams::default(), &object).await;
    created.unwrap();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    let patch = Patch::Merge(status);
    nodes
        .patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// Who the node at this address proves to be.
fn machine(address: &str) -> AttesterIdentity {
    let verified = printed(&verify(&format!("{address} --output json")), 0);
    let verified: Value = serde_json::from_str(&verified).unwrap();
    let identity = verified["nodes"][0]["identity"].as_str().unwrap();
    identity.parse().unwrap()
}

#[test]
fn the_nodes_of_a_cluster_are_shown_and_each_is_held_to_its_record() {
    let control_plane = start();
    let at = |address: &str| format!("{address}:30081");
    let _worker = Node::start_at(&at(WORKER), "worker-0", CLUSTER, Some(CLUSTER));
    // A genuine node of the cluster, under the name of another one.
    let _impostor = Node::start_at(&at(IMPOSTOR), "worker-1", CLUSTER, Some(CLUSTER));
    let worker = machine(WORKER);
    let file = SHARED.operator.path("admin.kubeconfig");
    fs::write(file, control_plane.admin_kubeconfig()).unwrap();
    Runtime::new().unwrap().block_on(async {
        let client = control_plane.kube_client().unwrap();
        let store = KubeStore::new(client.clone());
        record(&store, "worker-0", 1, worker).await;
        record(&store, "worker-1", 2, AttesterIdentity::Machine([9; 32])).await;
        record(&store, "worker-2", 3, AttesterIdentity::Machine([8; 32])).await;
        let nodes: Api<KubernetesNode> = Api::all(client);
        node(&nodes, "worker-0", WORKER).await;
        node(&nodes, "worker-1", IMPOSTOR).await;
        node(&nodes, "stranger", WORKER).await;
    });

    let status = SHARED.operator.ok("status --kubeconfig admin.kubeconfig");
    let row = |name: &str| {
        let mut rows = status.lines();
        let row = rows.find(|row| row.starts_with(name));
        row.unwrap_or_else(|| panic!("{name}: {status}"))
    };
    assert!(row("worker-0").contains("yes"), "{status}");
    assert!(row("worker-0").contains("2023-11-14"), "{status}");
    assert!(row("stranger").contains("NO RECORD"), "{status}");
    let status = SHARED
        .operator
        .ok("status --kubeconfig admin.kubeconfig --output json");
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 4);
    assert_eq!(status["nodes"][1]["role"], "worker");
    assert_eq!(status["nodes"][3]["ready"], Value::Null);

    let found = printed(&verify("--kubeconfig admin.kubeconfig --output json"), 3);
    let found: Value = serde_json::from_str(&found).unwrap();
    let results: Vec<_> = found["nodes"].as_array().unwrap().iter().collect();
    for (at, name, result) in [
        (0, "stranger", "refused"),
        (1, "worker-0", "verified"),
        (2, "worker-1", "refused"),
        (3, "worker-2", "unavailable"),
    ] {
        assert_eq!(results[at]["name"], name, "{found}");
        assert_eq!(results[at]["result"], result, "{found}");
    }
    assert_eq!(results[2]["checks"][0]["check"], "machine");
    assert_eq!(results[2]["checks"][0]["expected"], "09".repeat(32));
    let nobody = SHARED.operator.refused("status --kubeconfig absent");
    assert!(
        nobody.contains("kubeconfig") || nobody.contains("absent"),
        "{nobody}"
    );
}
