//! A control plane through kubeadm, phase by phase.
//!
//! kubeadm's own order of a whole `init` or `join` is not used: it makes bootstrap tokens, writes the
//! kubelet's configuration and restarts it through systemd, which are ours to do or not to do.

use crate::{
    clients,
    error::PhaseError,
    etcd, file,
    kubelet::{MANIFESTS, PKI},
    node::{Material, Node},
    program::{Program, until},
    templates::AUDIT_POLICY,
    version::KubernetesVersion,
};
use readiness::readiness;
use std::{
    path::Path,
    time::{Duration, SystemTime},
};
use tokio::net::TcpStream;

pub mod controllers;
mod lifetimes;
mod readiness;

/// kubeadm's configuration. No secret is in it.
const CONFIGURATION: &str = "/etc/kubernetes/kubeadm.yaml";

/// The same for a join; the other one is then there as well, because only an `init` phase signs
/// an administrator's kubeconfig.
const JOIN_CONFIGURATION: &str = "/etc/kubernetes/kubeadm-join.yaml";

/// Changes to kubeadm's manifests, by the name of the pod (RFC 6902).
const PATCHES: &str = "/etc/kubernetes/patches";
const ETCD_PATCH: &[u8] =
    br#"[{"op": "remove", "path": "/spec/containers/0/resources/requests/ephemeral-storage"}]"#;

/// How often the API server is asked whether it is ready.
const POLL: Duration = Duration::from_millis(250);

/// What makes a control-plane node, and the mode of each file.
const FILES: &[(&str, u32)] = &[
    ("ca.crt", 0o644),
    ("ca.key", 0o600),
    ("etcd/ca.crt", 0o644),
    ("etcd/ca.key", 0o600),
    ("front-proxy-ca.crt", 0o644),
    ("front-proxy-ca.key", 0o600),
    ("sa.key", 0o600),
    ("sa.pub", 0o600),
];

/// Names of [`FILES`].
pub(crate) fn file_names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _mode)| *name)
}

/// Places the files of the ticket.
///
/// # Errors
/// [`PhaseError`].
pub fn place_files(node: &Node) -> Result<(), PhaseError> {
    let files = match &node.material {
        Material::Join(material) => material.control_plane.as_ref(),
        Material::Init(_) | Material::None => None,
    };
    let files = &files
        .ok_or(PhaseError::Missing("file of a control-plane node"))?
        .0;
    if let Some(foreign) = files
        .keys()
        .find(|name| !file_names().any(|known| known == name.as_str()))
    {
        return Err(PhaseError::ForeignFile(foreign.clone()));
    }
    file::make_folder(&Path::new(PKI).join("etcd"), 0o755)?;
    for (name, mode) in FILES {
        let content = files
            .get(*name)
            .ok_or(PhaseError::Missing("complete set of control-plane files"))?;
        let content = content.expose_secret().as_bytes();
        file::replace(&Path::new(PKI).join(name), content, *mode)?;
    }
    Ok(())
}

/// Authorities and certificates of the first node.
///
/// # Errors
/// [`PhaseError`].
pub async fn certificates(node: &Node) -> Result<(), PhaseError> {
    must_fit(node).await?;
    write_configuration(node, CONFIGURATION, false)?;
    init_phase(node, &["certs", "all"]).await
}

/// Kubeconfigs of the administrator, the controller manager and the scheduler.
///
/// # Errors
/// [`PhaseError`].
pub async fn kubeconfigs(node: &Node) -> Result<(), PhaseError> {
    admin(node).await?;
    init_phase(node, &["kubeconfig", "controller-manager"]).await?;
    init_phase(node, &["kubeconfig", "scheduler"]).await
}

async fn admin(node: &Node) -> Result<(), PhaseError> {
    init_phase(node, &["kubeconfig", "admin"]).await?;
    // From 1.29 on `admin.conf` is in a group that gets its rights through this one.
    if node.version.minor >= 29 {
        init_phase(node, &["kubeconfig", "super-admin"]).await?;
    }
    Ok(())
}

/// There while certificates are being renewed: kubeadm replaces a certificate and its key one after the
/// other, and a power cut between the two leaves a pair that only another renewal mends.
const RENEWING: &str = "/etc/kubernetes/renewing-certificates";

/// Renews certificates of a control plane that ran before, unless all of them are young: they may have
/// expired while the node was off.
///
/// # Errors
/// [`PhaseError`].
pub async fn renew_certificates(node: &Node) -> Result<(), PhaseError> {
    if !Path::new(MANIFESTS).join("kube-apiserver.yaml").exists() {
        tracing::info!("the control plane is new: nothing to renew");
        return Ok(());
    }
    let interrupted = Path::new(RENEWING).exists();
    match lifetimes::first_aged(Path::new("/etc/kubernetes"), SystemTime::now()) {
        Some(file) => tracing::info!(file, "a certificate is not young any more"),
        None if interrupted => tracing::info!("a renewal was interrupted"),
        None => return Ok(()),
    }
    file::replace(Path::new(RENEWING), b"", 0o600)?;
    kubeadm(node, &["certs", "renew", "all", "--config", CONFIGURATION]).await?;
    // kubeadm syncs nothing.
    file::sync_file_system(Path::new(PKI))?;
    Ok(file::delete(Path::new(RENEWING))?)
}

/// etcd and the control plane of the first node.
///
/// # Errors
/// [`PhaseError`].
pub async fn static_pods(node: &Node) -> Result<(), PhaseError> {
    write_audit_policy()?;
    init_phase(node, &with_patches(node, &["etcd", "local"])?).await?;
    init_phase(node, &["control-plane", "all"]).await
}

/// Waits until the API server says that it is ready.
///
/// # Errors
/// [`PhaseError`].
pub async fn wait_for_api_server(node: &Node) -> Result<(), PhaseError> {
    let limit = node.config.limits.control_plane_seconds.duration();
    let endpoint = node.kubernetes().api_endpoint.as_str();
    until(limit, POLL, || async move {
        // The client library calls each failed connection an error in the log.
        if let Err(source) = TcpStream::connect(endpoint).await {
            let endpoint = endpoint.to_owned();
            return Err(PhaseError::Unreachable { endpoint, source });
        }
        // A new client each time: the certificates of its kubeconfig may just have been renewed.
        readiness(&clients::administrator().await?).await
    })
    .await
}

/// Leaves the configuration in the cluster.
///
/// # Errors
/// [`PhaseError`].
pub async fn upload_configuration(node: &Node) -> Result<(), PhaseError> {
    init_phase(node, &["upload-config", "all"]).await
}

/// Labels and taints the first node.
///
/// # Errors
/// [`PhaseError`].
pub async fn mark(node: &Node) -> Result<(), PhaseError> {
    init_phase(node, &["mark-control-plane"]).await
}

/// kube-proxy, as kubeadm deploys it.
///
/// # Errors
/// [`PhaseError`].
pub async fn kube_proxy(node: &Node) -> Result<(), PhaseError> {
    init_phase(node, &["addon", "kube-proxy"]).await
}

/// CoreDNS, as kubeadm deploys it, where the configuration wants it.
///
/// # Errors
/// [`PhaseError`].
pub async fn coredns(node: &Node) -> Result<(), PhaseError> {
    if node.config.cluster.coredns {
        init_phase(node, &["addon", "coredns"]).await
    } else {
        Ok(())
    }
}

/// Signs an administrator's kubeconfig, with which kubeadm then reads the cluster.
///
/// # Errors
/// [`PhaseError`].
pub async fn admin_kubeconfig(node: &Node) -> Result<(), PhaseError> {
    must_fit(node).await?;
    write_configuration(node, CONFIGURATION, false)?;
    write_configuration(node, JOIN_CONFIGURATION, true)?;
    admin(node).await
}

/// Certificates of a further control-plane node.
///
/// # Errors
/// [`PhaseError`].
pub async fn join_certificates(node: &Node) -> Result<(), PhaseError> {
    join_phase(node, &["control-plane-prepare", "certs"]).await
}

/// Kubeconfigs and static pods of a further control-plane node; etcd's comes with its membership.
///
/// # Errors
/// [`PhaseError`].
pub async fn join_static_pods(node: &Node) -> Result<(), PhaseError> {
    write_audit_policy()?;
    join_phase(node, &["control-plane-prepare", "kubeconfig"]).await?;
    join_phase(node, &["control-plane-prepare", "control-plane"]).await
}

/// Makes this node's etcd a member.
///
/// # Errors
/// [`PhaseError`].
pub async fn etcd_member(node: &Node) -> Result<(), PhaseError> {
    etcd::make_room(node).await?;
    let phase = with_patches(node, &["control-plane-join", "etcd"])?;
    join_phase(node, &phase).await
}

/// Labels and taints a further control-plane node.
///
/// # Errors
/// [`PhaseError`].
pub async fn mark_joined(node: &Node) -> Result<(), PhaseError> {
    if node.version.minor < 22 {
        join_phase(node, &["control-plane-join", "update-status"]).await?;
    }
    join_phase(node, &["control-plane-join", "mark-control-plane"]).await
}

/// Until 1.21 kubeadm asks storage for etcd that a kubelet in its first seconds does not know to have: it refuses
/// the pod then and never tries again (kubernetes/kubernetes#99305).
fn with_patches<'a>(node: &Node, phase: &[&'a str]) -> Result<Vec<&'a str>, PhaseError> {
    let mut phase = phase.to_vec();
    if node.version.minor < 22 {
        let folder = Path::new(PATCHES);
        file::make_folder(folder, 0o700)?;
        file::replace(&folder.join("etcd+json.json"), ETCD_PATCH, 0o600)?;
        phase.extend(["--experimental-patches", PATCHES]);
    }
    Ok(phase)
}

fn write_audit_policy() -> Result<(), PhaseError> {
    let path = Path::new("/etc/kubernetes/audit-policy.yaml");
    file::make_folder(Path::new("/var/log/kubernetes"), 0o700)?;
    Ok(file::replace(path, AUDIT_POLICY.as_bytes(), 0o600)?)
}

fn write_configuration(node: &Node, path: &str, join: bool) -> Result<(), PhaseError> {
    let text = node.subject().kubeadm(join)?;
    Ok(file::replace(Path::new(path), text.as_bytes(), 0o600)?)
}

/// kubeadm makes what its own version knows; with another one the cluster would not be what the operator
/// asked for.
async fn must_fit(node: &Node) -> Result<(), PhaseError> {
    let limit = node.config.limits.program_seconds.duration();
    let program = Program::new(
        &node.config.programs.kubeadm,
        ["version", "--output", "short"],
        limit,
    );
    let kubeadm = program.output().await?;
    let cluster = &node.kubernetes().version;
    let of = |text: &str| text.parse::<KubernetesVersion>();
    if of(&kubeadm)? == of(cluster)? && of(cluster)? == node.version {
        return Ok(());
    }
    Err(PhaseError::OtherVersion {
        kubeadm: kubeadm.trim().to_owned(),
        cluster: cluster.clone(),
    })
}

async fn init_phase(node: &Node, phase: &[&str]) -> Result<(), PhaseError> {
    let arguments = ["init", "phase"].iter().chain(phase);
    let arguments: Vec<&str> = arguments
        .copied()
        .chain(["--config", CONFIGURATION])
        .collect();
    kubeadm(node, &arguments).await
}

async fn join_phase(node: &Node, phase: &[&str]) -> Result<(), PhaseError> {
    let arguments = ["join", "phase"].iter().chain(phase);
    let arguments: Vec<&str> = arguments
        .copied()
        .chain(["--config", JOIN_CONFIGURATION])
        .collect();
    kubeadm(node, &arguments).await
}

async fn kubeadm(node: &Node, arguments: &[&str]) -> Result<(), PhaseError> {
    let limit = node.config.limits.control_plane_seconds.duration();
    let program = Program::new(&node.config.programs.kubeadm, arguments, limit);
    Ok(program.run(&node.progress).await?)
}
