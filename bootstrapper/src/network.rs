//! The network of pods on this node: who gets addresses, and how packets leave.

use crate::{
    clients,
    error::PhaseError,
    file::{self, FileError},
    node::Node,
    program::{Program, until},
    templates,
};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

/// How often the node's object is looked at.
const POLL: Duration = Duration::from_millis(250);

/// The file that the container runtime finds first.
const FILE: &str = "/etc/cni/net.d/10-constellation.conflist";

/// Beside the hand-off, which ends with the boot: a worker's object was made.
const MADE: &str = "node-object-made";

/// Makes a worker's object with the kubelet's credentials, if it is not there. The kubelet adds to it what it knows, as to
/// one of an earlier boot. So the range of pods comes before the kubelet looks for a network: it looks once when it
/// learns the range, and then every ten seconds.
///
/// Once a boot: a bootstrapper that starts anew does not bring back a node whose object was deleted.
///
/// # Errors
/// [`PhaseError`].
pub async fn node_object(node: &Node) -> Result<(), PhaseError> {
    let made = node.config.hand_off.join(MADE);
    if made.exists() {
        return Ok(());
    }
    let limit = node.config.limits.node_seconds.duration();
    until(limit, POLL, || async {
        let nodes = Api::all(clients::node().await?);
        make_object(&nodes, node.hand_off.node_name.as_str(), None).await
    })
    .await?;
    Ok(file::replace(&made, b"", 0o600)?)
}

/// Makes the object of a cluster's first node, or completes the kubelet's, with the first range of pods: nobody else can have
/// it yet. The controller manager would give it the same some seconds later, when it has started all else.
///
/// # Errors
/// [`PhaseError`].
pub async fn first_node_object(node: &Node) -> Result<(), PhaseError> {
    let limit = node.config.limits.node_seconds.duration();
    let range = first_range(node.kubernetes().pod_subnet.as_str());
    let range = range.as_deref();
    until(limit, POLL, || async move {
        let nodes = Api::all(clients::administrator().await?);
        make_object(&nodes, node.hand_off.node_name.as_str(), range).await
    })
    .await
}

/// Makes a node's object. One that is there keeps its range of pods if it has one, else gets `range`.
///
/// # Errors
/// [`PhaseError`].
pub async fn make_object(
    nodes: &Api<NodeObject>,
    name: &str,
    range: Option<&str>,
) -> Result<(), PhaseError> {
    let spec = range.map(|range| json!({ "podCIDR": range, "podCIDRs": [range] }));
    let failed = PhaseError::api("make the node's object");
    // A kubelet completes these maps, and until 1.20 panics where there is none. No pod has room until it did: the
    // scheduler sends none, and one that names the node itself fails for good (`OutOfpods`).
    let room = json!({ "pods": "0" });
    let object = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": spec,
        "status": { "capacity": room, "allocatable": room },
    }));
    let object = object.map_err(|error| failed(kube::Error::SerdeError(error)))?;
    match nodes.create(&PostParams::default(), &object).await {
        Ok(_made) => return Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(failed(error)),
    }
    let Some(spec) = spec else {
        return Ok(());
    };
    let found = nodes.get(name).await.map_err(&failed)?;
    if found.spec.and_then(|spec| spec.pod_cidr).is_some() {
        return Ok(());
    }
    let patch = Patch::Merge(json!({ "spec": spec }));
    // One that came meanwhile is never replaced: the API server refuses.
    let patched = nodes.patch(name, &PatchParams::default(), &patch).await;
    patched.map(drop).map_err(failed)
}

/// Waits for the node's range of pods, and writes the network configuration.
///
/// # Errors
/// [`PhaseError`].
pub async fn pod_network(node: &Node) -> Result<(), PhaseError> {
    let pod_cidr = wait_for(node, "the node has a range of pods", |object| {
        object.spec.as_ref()?.pod_cidr.clone()
    })
    .await?;
    let forwarding = Path::new("/proc/sys/net/ipv4/ip_forward");
    fs::write(forwarding, "1").map_err(FileError::new("write", forwarding))?;
    masquerade(node, &pod_cidr).await?;
    configure(&pod_cidr)
}

/// Writes the network configuration of a cluster's first node before its kubelet starts. A kubelet looks for one at once
/// when its range comes, before anybody could have written it, and then every ten seconds. Should the range be
/// another one, [`pod_network`] replaces it; until then no pod has an address.
///
/// # Errors
/// [`PhaseError`].
pub fn first_pod_network(node: &Node) -> Result<(), PhaseError> {
    match first_range(node.kubernetes().pod_subnet.as_str()) {
        Some(range) => configure(&range),
        None => Ok(()),
    }
}

/// The first range that a controller manager gives out: 256 addresses (its `--node-cidr-mask-size`).
fn first_range(pod_subnet: &str) -> Option<String> {
    let (base, bits) = pod_subnet.split_once('/')?;
    let (base, bits): (Ipv4Addr, u8) = (base.parse().ok()?, bits.parse().ok()?);
    let [first, second, third, _] = base.octets();
    (bits <= 24).then(|| format!("{first}.{second}.{third}.0/24"))
}

fn configure(pod_cidr: &str) -> Result<(), PhaseError> {
    let text = templates::pod_network(pod_cidr)?;
    Ok(file::replace(Path::new(FILE), text.as_bytes(), 0o644)?)
}

/// Waits until the node's object says that it is ready.
///
/// # Errors
/// [`PhaseError`].
pub async fn wait_until_ready(node: &Node) -> Result<(), PhaseError> {
    wait_for(node, "the node is ready", |object| {
        let conditions = object.status.as_ref()?.conditions.as_ref()?;
        let ready = conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        ready.then_some(())
    })
    .await
}

/// Packets of pods to pods keep their sender; those that leave the cluster get the node's.
async fn masquerade(node: &Node, pod_cidr: &str) -> Result<(), PhaseError> {
    let pods = node.kubernetes().pod_subnet.as_str();
    let rule = [
        "POSTROUTING",
        "--source",
        pod_cidr,
        "!",
        "--destination",
        pods,
        "--jump",
        "MASQUERADE",
    ];
    let iptables = |action: &str| {
        let arguments = ["--wait", "--table", "nat", action].into_iter().chain(rule);
        let limit = node.config.limits.program_seconds.duration();
        Program::new(&node.config.programs.iptables, arguments, limit)
    };
    if iptables("--check").output().await.is_err() {
        iptables("--append").run(&node.progress).await?;
    }
    Ok(())
}

async fn wait_for<T>(
    node: &Node,
    what: &'static str,
    found: impl Fn(&NodeObject) -> Option<T>,
) -> Result<T, PhaseError> {
    let limit = node.config.limits.node_seconds.duration();
    let name = node.hand_off.node_name.as_str();
    let found = &found;
    until(limit, POLL, || async move {
        // A new client each time, so that a connection to a lost control plane is not kept.
        let nodes: Api<NodeObject> = Api::all(clients::node().await?);
        let object = nodes.get(name).await.map_err(PhaseError::api(what))?;
        found(&object).ok_or(PhaseError::TookTooLong { what, limit })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_begins_where_the_pods_network_does() {
        assert_eq!(first_range("10.244.0.0/16").unwrap(), "10.244.0.0/24");
        assert_eq!(first_range("10.1.2.0/24").unwrap(), "10.1.2.0/24");
        for other in ["10.1.2.0/25", "fd00::/48", "10.1.2.0"] {
            assert_eq!(first_range(other), None, "{other}");
        }
    }
}
