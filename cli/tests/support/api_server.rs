//! A real API server that knows of nodes and their records.

use crate::running::{printed, verify};
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
use serde_json::{Value, json};

/// An API server with our resources and the namespace of our services.
pub(crate) fn start(options: Options) -> ControlPlane {
    let control_plane = ControlPlane::start(&Kubernetes::find().unwrap(), options);
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
pub(crate) async fn record(store: &KubeStore, name: &str, disk: u8, attester: AttesterIdentity) {
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
pub(crate) async fn node(nodes: &Api<KubernetesNode>, name: &str, address: &str) {
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
pub(crate) fn machine(address: &str) -> AttesterIdentity {
    let verified = printed(&verify(&format!("{address} --output json")), 0);
    let verified: Value = serde_json::from_str(&verified).unwrap();
    let identity = verified["nodes"][0]["identity"].as_str().unwrap();
    identity.parse().unwrap()
}
