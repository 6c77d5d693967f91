//! The folder of archives that a node imports from (docs/bootstrapper.md, `images`).

use crate::SERVICES;
use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA256, digest};
use std::{fs, path::Path};

/// Below the folder: what only nodes of the control plane import.
const CONTROL_PLANE: &str = "control-plane";

/// Which of kubeadm's images run on nodes of the control plane alone.
const KUBERNETES_CONTROL_PLANE: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Our service that runs on every node.
const EVERYWHERE: &str = "verification-service";

/// Makes a folder with archives the one that nodes import from: what only nodes of the control plane need goes below
/// `control-plane`, and each archive's SHA-256 beside it, so that no boot reads all of them.
///
/// # Errors
/// If a file cannot be read, moved or written.
pub fn arrange(folder: &Path) -> Result<()> {
    let control_plane = folder.join(CONTROL_PLANE);
    fs::create_dir_all(&control_plane)?;
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.ends_with(".tar") {
            continue;
        }
        let mut path = entry.path();
        if is_control_plane(&name) {
            let below = control_plane.join(&*name);
            fs::rename(&path, &below)?;
            path = below;
        }
        let archive = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let digest = hex::encode(digest(&SHA256, &archive));
        fs::write(path.with_extension("tar.sha256"), digest)?;
    }
    Ok(())
}

/// Whether an archive of this name is for nodes of the control plane alone.
#[must_use]
pub fn is_control_plane(archive: &str) -> bool {
    let is_kubernetes = KUBERNETES_CONTROL_PLANE
        .iter()
        .any(|part| archive.contains(part));
    let name = archive.strip_suffix(".tar").unwrap_or(archive);
    is_kubernetes || (SERVICES.contains(&name) && name != EVERYWHERE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_what_runs_on_workers() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let everywhere = [
            "demo.tar",
            "k8s.gcr.io_kube-proxy_v1.20.2.tar",
            "k8s.gcr.io_pause_3.2.tar",
            "verification-service.tar",
        ];
        let above = [
            "join-service.tar",
            "k8s.gcr.io_etcd_3.4.13-0.tar",
            "k8s.gcr.io_kube-apiserver_v1.20.2.tar",
            "k8s.gcr.io_kube-controller-manager_v1.20.2.tar",
            "k8s.gcr.io_kube-scheduler_v1.20.2.tar",
            "key-service.tar",
        ];
        for name in everywhere.into_iter().chain(above) {
            fs::write(file(name), "abc").unwrap();
        }
        arrange(folder.path()).unwrap();
        // FIPS 180-4, the example of one block.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let below = above.map(|name| format!("control-plane/{name}"));
        for name in everywhere.map(str::to_owned).into_iter().chain(below) {
            assert_eq!(fs::read_to_string(file(&name)).unwrap(), "abc", "{name}");
            let beside = fs::read_to_string(file(&format!("{name}.sha256")));
            assert_eq!(beside.unwrap(), abc, "{name}");
        }
        assert!(!file("join-service.tar").exists());
    }
}
