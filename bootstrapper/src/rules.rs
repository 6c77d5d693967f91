//! What nodes may do in the cluster, and what those who join find there.
//!
//! kubeadm would make these along with its bootstrap tokens; there are none here, and nothing that
//! approves requests of someone who is not a node yet.

use crate::{
    clients::{self, FIELD_MANAGER},
    error::PhaseError,
    file,
    kubelet::PKI,
    node::Node,
    program::until,
};
use kube::{
    Client,
    api::{Api, DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// Renewals of a node's own client certificate are approved; the name is kubeadm's.
const ROTATION: &str = "kubeadm:node-autoapprove-certificate-rotation";

/// Every node sets routes to every other. Newer API servers show a node only itself otherwise.
const ROUTES: &str = "constellation:node-routes";

/// Applies all of it.
///
/// # Errors
/// [`PhaseError`].
pub async fn apply(node: &Node) -> Result<(), PhaseError> {
    let client = clients::administrator().await?;
    let limit = node.config.limits.program_seconds.duration();
    for object in objects(node)? {
        // `kube-public`, for one, appears only some time after the API server is ready.
        until(limit, Duration::from_millis(250), || {
            apply_object(&client, &object)
        })
        .await?;
    }
    Ok(())
}

fn objects(node: &Node) -> Result<Vec<Value>, PhaseError> {
    let authority = file::read_text(&Path::new(PKI).join("ca.crt"))?;
    let authority = k8s_openapi::ByteString(authority.into_bytes());
    let authority = json!(authority);
    let info = node
        .subject()
        .cluster_info(authority.as_str().unwrap_or_default())?;
    let nodes = json!([{
        "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes",
    }]);
    let role = |name| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    Ok(vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": ROTATION},
            "roleRef": role("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"),
            "subjects": nodes,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": ROUTES},
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]}],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": ROUTES},
            "roleRef": role(ROUTES),
            "subjects": nodes,
        }),
        // Without it `kubeadm join` of a control-plane node waits for somebody to publish it. No rule lets anybody
        // but an administrator read it.
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "data": {"kubeconfig": info},
        }),
    ])
}

/// Applies one object, as its `apiVersion`, `kind` and `metadata` say.
///
/// # Errors
/// [`PhaseError::Api`].
pub(crate) async fn apply_object(client: &Client, object: &Value) -> Result<(), PhaseError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let metadata = &object["metadata"];
    let api: Api<DynamicObject> = match metadata["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&text(&metadata["name"]), &parameters, &Patch::Apply(object))
        .await
        .map_err(PhaseError::api("apply an object of the cluster"))?;
    Ok(())
}
