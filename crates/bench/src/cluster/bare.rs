//! The same nodes with kubeadm alone.

use super::{FIRST, Life, WORKER, ready, timed};
use anyhow::Result;
use native_kubernetes::{
    IsolatedNode, Kubernetes, Network, init, is_control_plane, join, kubernetes_images,
};
use std::path::{Path, PathBuf};

/// What starts the kubelet of a node that kubeadm made.
const KUBELET_STARTS_WITH: &str = "/var/lib/kubelet/config.yaml";

pub(super) fn live(kubernetes: &Kubernetes) -> Result<Life> {
    let network = Network::start()?;
    let mut first = IsolatedNode::start(kubernetes, &network, FIRST, 1)?;
    let mut second = IsolatedNode::start(kubernetes, &network, WORKER, 2)?;
    let version = kubernetes.version();
    let images = kubernetes_images(kubernetes, first.folder())?;
    let import_s = timed(|| import(&first, &images))?;
    let mut ticket = None;
    let init_s = timed(|| {
        ticket = Some(init(&mut first, version)?);
        ready::wait(&first, FIRST)
    })?;
    let ticket = ticket.ok_or_else(|| anyhow::anyhow!("no way to join"))?;
    let of_workers: Vec<_> = images
        .into_iter()
        .filter(|image| is_for_workers(image))
        .collect();
    let join_s = timed(|| {
        import(&second, &of_workers)?;
        join(&mut second, version, &ticket)?;
        ready::wait(&first, WORKER)
    })?;
    second.power_off()?;
    first.power_off()?;
    let since = ready::now()?;
    let recover_s = timed(|| {
        first.power_on(&network)?;
        first.serve_kubelet(KUBELET_STARTS_WITH)?;
        ready::wait_again(&first, &since)
    })?;
    Ok(Life {
        init: import_s + init_s,
        import: import_s,
        services: None,
        join: join_s,
        recover: recover_s,
    })
}

/// A worker of ours imports no more, either.
fn is_for_workers(image: &Path) -> bool {
    let name = image.file_name().unwrap_or_default();
    !is_control_plane(&name.to_string_lossy())
}

/// One after the other, as the bootstrapper does.
fn import(node: &IsolatedNode, images: &[PathBuf]) -> Result<()> {
    images.iter().try_for_each(|image| node.import(image))
}
