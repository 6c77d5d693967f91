//! Controller manager and scheduler of this node. They do nothing without an API server: beside one that starts they
//! take processors from it, and they ask for it ever less often, in the end once a minute. So their manifests wait
//! until the cluster's endpoint answers. Behind a balancer that may be another node's API server.

use crate::{
    clients,
    error::PhaseError,
    file::{self, FileError},
    kubelet::{self, MANIFESTS},
    node::Node,
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::PostParams};
use service_runtime::Chain;
use std::{fs, io, path::Path};

/// Where manifests wait until there is an API server.
const HELD_BACK: &str = "/etc/kubernetes/manifests-held-back";

/// By the names of their static pods and of their leases.
const NAMES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// Where their leases are.
const NAMESPACE: &str = "kube-system";

/// Takes the controllers away from a kubelet that does not run yet.
///
/// # Errors
/// [`PhaseError`].
pub fn hold_back(node: &Node) -> Result<(), PhaseError> {
    let start = node.config.hand_off.join(kubelet::START);
    Ok(hold_back_before(
        &start,
        Path::new(MANIFESTS),
        Path::new(HELD_BACK),
    )?)
}

/// What a kubelet runs already stays: it may lead, and [`start`] would take its lease away.
fn hold_back_before(start: &Path, manifests: &Path, held_back: &Path) -> Result<(), FileError> {
    match start.exists() {
        true => Ok(()),
        false => move_manifests(manifests, held_back),
    }
}

/// Gives the controllers to the kubelet.
///
/// # Errors
/// [`PhaseError`].
pub async fn start(node: &Node) -> Result<(), PhaseError> {
    for name in NAMES {
        if Path::new(HELD_BACK).join(manifest(name)).exists() {
            let released = release(name, node.hand_off.node_name.as_str()).await;
            // Only slower: then they wait until the lease has ended.
            if let Err(error) = released {
                tracing::warn!(lease = name, error = %Chain(&error), "not released");
            }
        }
    }
    Ok(move_manifests(Path::new(HELD_BACK), Path::new(MANIFESTS))?)
}

async fn release(name: &'static str, node_name: &str) -> Result<(), PhaseError> {
    let leases = Api::namespaced(clients::administrator().await?, NAMESPACE);
    let released = end_leadership(&leases, name, node_name).await;
    if released.map_err(PhaseError::api("release the lease of an earlier boot"))? {
        tracing::info!(
            lease = name,
            "released: its holder ended with an earlier boot"
        );
    }
    Ok(())
}

/// Ends the leadership of a program of this node that does not run any more, as it could itself; whether there was one. A
/// candidate would wait for a whole lease from when it saw it first, however old it is. The holder's name is
/// `NODE_UUID` (kube-controller-manager and kube-scheduler, `cmd/.../app`).
///
/// # Errors
/// Those of the API server; a conflict if somebody leads meanwhile.
pub async fn end_leadership(leases: &Api<Lease>, name: &str, node: &str) -> kube::Result<bool> {
    let Some(mut lease) = leases.get_opt(name).await? else {
        return Ok(false);
    };
    let is_ours = |holder: &String| {
        let rest = holder.strip_prefix(node);
        rest.is_some_and(|rest| rest.starts_with('_'))
    };
    let Some(spec) = lease.spec.as_mut() else {
        return Ok(false);
    };
    if !spec.holder_identity.as_ref().is_some_and(is_ours) {
        return Ok(false);
    }
    spec.holder_identity = None;
    // Refused if it is not the lease that was read.
    leases.replace(name, &PostParams::default(), &lease).await?;
    Ok(true)
}

fn manifest(name: &str) -> String {
    format!("{name}.yaml")
}

/// Those that are not there stay where they are.
fn move_manifests(from: &Path, to: &Path) -> Result<(), FileError> {
    file::make_folder(to, 0o700)?;
    for name in NAMES.map(manifest) {
        let path = from.join(&name);
        match fs::rename(&path, to.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved.map_err(FileError::new("move", &path))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kubelet_runs_is_not_held_back() {
        let folder = tempfile::tempdir().unwrap();
        let [start, running, waiting] =
            ["start", "running", "waiting"].map(|name| folder.path().join(name));
        file::make_folder(&running, 0o700).unwrap();
        fs::write(running.join("kube-scheduler.yaml"), "").unwrap();
        fs::write(&start, "").unwrap();
        hold_back_before(&start, &running, &waiting).unwrap();
        assert_eq!(fs::read_dir(&running).unwrap().count(), 1);
        fs::remove_file(&start).unwrap();
        hold_back_before(&start, &running, &waiting).unwrap();
        assert_eq!(fs::read_dir(&running).unwrap().count(), 0);
    }

    #[test]
    fn controllers_are_moved_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let [running, waiting] = ["running", "waiting"].map(|name| folder.path().join(name));
        file::make_folder(&running, 0o700).unwrap();
        let scheduler = "kube-scheduler.yaml";
        for name in ["etcd.yaml", scheduler, "kube-controller-manager.yaml"] {
            fs::write(running.join(name), name).unwrap();
        }
        move_manifests(&running, &waiting).unwrap();
        // A run that was killed half-way.
        fs::rename(waiting.join(scheduler), running.join(scheduler)).unwrap();
        move_manifests(&running, &waiting).unwrap();
        assert_eq!(fs::read_dir(&running).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&waiting).unwrap().count(), 2);
        move_manifests(&waiting, &running).unwrap();
        move_manifests(&waiting, &running).unwrap();
        assert_eq!(fs::read_dir(&running).unwrap().count(), 3);
        let moved = fs::read_to_string(running.join(scheduler)).unwrap();
        assert_eq!(moved, scheduler);
    }
}
