//! `constellation status` and `verify --kubeconfig` against a real API server.
#![cfg(test)]

#[path = "support/api_server.rs"]
mod api_server;
#[path = "support/operator.rs"]
mod operator;
#[path = "support/running.rs"]
mod running;

use api_server::{machine, node, record, start};
use appraisal::AttesterIdentity;
use k8s_openapi::api::core::v1::Node as KubernetesNode;
use kube::Api;
use kube_store::KubeStore;
use native_kubernetes::Options;
use running::{CLUSTER, Node, SHARED, printed, verify};
use serde_json::Value;
use std::fs;
use tokio::runtime::Runtime;

/// Addresses of this machine that nobody else's tests use, with the port that nodes have.
const WORKER: &str = "127.77.0.1";
const IMPOSTOR: &str = "127.77.0.2";

#[test]
fn the_nodes_of_a_cluster_are_shown_and_each_is_held_to_its_record() {
    let control_plane = start(Options::default());
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
    let nobody = SHARED.operator.fails("status --kubeconfig absent");
    assert!(
        nobody.contains("kubeconfig") || nobody.contains("absent"),
        "{nobody}"
    );
}
