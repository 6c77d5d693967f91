//! Objects that the bootstrapper makes and changes, in a real API server.

use bootstrapper::{control_plane::controllers::end_leadership, network::make_object};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use native_kubernetes::{ControlPlane, Kubernetes, Options};
use serde_json::json;

const NAME: &str = "control-0";
const FIRST: &str = "10.20.0.0/24";

async fn range(nodes: &Api<Node>) -> kube::Result<Option<String>> {
    let object = nodes.get(NAME).await?;
    Ok(object.spec.and_then(|spec| spec.pod_cidr))
}

#[tokio::test]
async fn a_range_is_given_once_and_never_replaced() {
    let options = Options::default();
    let control_plane = ControlPlane::start(&Kubernetes::find().unwrap(), options).unwrap();
    let nodes: Api<Node> = Api::all(control_plane.kube_client().unwrap());

    // A worker's: without a range, and room for no pod until its kubelet says how many.
    make_object(&nodes, NAME, None).await.unwrap();
    let object = nodes.get(NAME).await.unwrap();
    let capacity = object.status.unwrap().capacity.unwrap();
    assert_eq!(capacity["pods"].0, "0");
    assert_eq!(object.metadata.labels, None);
    assert_eq!(
        object.spec.unwrap().taints.map(|taints| taints.len()),
        Some(1)
    );
    assert_eq!(range(&nodes).await.unwrap(), None);

    // The kubelet's, or one of the run before: it keeps what it has, and gets the range.
    let label = json!({"metadata": {"labels": {"kept": "yes"}}});
    let patch = Patch::Merge(&label);
    nodes
        .patch(NAME, &PatchParams::default(), &patch)
        .await
        .unwrap();
    make_object(&nodes, NAME, Some(FIRST)).await.unwrap();
    assert_eq!(range(&nodes).await.unwrap().as_deref(), Some(FIRST));
    let object = nodes.get(NAME).await.unwrap();
    assert_eq!(object.metadata.labels.unwrap()["kept"], "yes");

    // Again, after a kill, or with another one: no error, and nothing new.
    for again in [Some(FIRST), Some("10.20.7.0/24"), None] {
        make_object(&nodes, NAME, again).await.unwrap();
        assert_eq!(range(&nodes).await.unwrap().as_deref(), Some(FIRST));
    }

    nodes.delete(NAME, &DeleteParams::default()).await.unwrap();
    make_object(&nodes, NAME, Some(FIRST)).await.unwrap();
    assert_eq!(range(&nodes).await.unwrap().as_deref(), Some(FIRST));
}

#[tokio::test]
async fn only_a_leadership_of_this_node_is_ended() {
    let options = Options::default();
    let control_plane = ControlPlane::start(&Kubernetes::find().unwrap(), options).unwrap();
    let leases: Api<Lease> = Api::namespaced(control_plane.kube_client().unwrap(), "default");
    let lease = |name: &str, holder: Option<&str>| {
        let spec =
            json!({"holderIdentity": holder, "leaseDurationSeconds": 60, "leaseTransitions": 3});
        serde_json::from_value::<Lease>(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    };
    for (name, holder, ended) in [
        ("ours", Some("control-0_5f6e"), true),
        ("of-another", Some("control-1_5f6e"), false),
        ("of-a-longer-name", Some("control-01_5f6e"), false),
        ("of-nobody", None, false),
    ] {
        let made = lease(name, holder);
        leases.create(&PostParams::default(), &made).await.unwrap();
        assert_eq!(
            end_leadership(&leases, name, NAME).await.unwrap(),
            ended,
            "{name}"
        );
        let spec = leases.get(name).await.unwrap().spec.unwrap();
        let left = spec.holder_identity.filter(|holder| !holder.is_empty());
        assert_eq!(left.as_deref(), holder.filter(|_| !ended), "{name}");
        assert_eq!(spec.lease_transitions, Some(3), "{name}");
    }
    assert!(!end_leadership(&leases, "none", NAME).await.unwrap());
}
