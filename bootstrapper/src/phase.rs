//! The phases of a run, in their order, and what drives them.
//!
//! A phase may be killed at any moment and run again: each first looks at what is there, or writes what
//! it would write anyway. A *lasting* phase makes something that stays on the state disk or in the cluster; the
//! state file says when it is done. The others put a booted machine into order and run every time.

use crate::{
    containers, control_plane,
    error::PhaseError,
    folders, kubelet, network,
    node::{Material, Node},
    rules, services,
    state::Origin,
};
use api::bootstrap::PhaseState;
use service_runtime::Chain;

/// One phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A kubeconfig of an administrator, signed here, through which kubeadm sees the cluster.
    AdminKubeconfig,
    /// Waits for the API server.
    ApiServer,
    /// Certificate authorities and certificates of the control plane.
    Certificates,
    /// Lets the controller manager and the scheduler start.
    Controllers,
    /// Places the files that make a control-plane node.
    ControlPlaneFiles,
    /// Waits for the container runtime.
    ContainerRuntime,
    /// CoreDNS, where the configuration wants it.
    CoreDns,
    /// Makes this node's etcd a member.
    EtcdMember,
    /// Makes the first node's object, with the first range of pods.
    FirstNodeObject,
    /// The network configuration of a cluster's first node, before it has its range.
    FirstPodNetwork,
    /// Puts folders onto the state file system.
    Folders,
    /// Imports the container images that came with the verified root.
    Images,
    /// Certificates of a further control-plane node.
    JoinCertificates,
    /// Kubeconfigs and static pods of a further control-plane node.
    JoinStaticPods,
    /// Kubeconfigs of the control plane.
    Kubeconfigs,
    /// Places or signs the kubelet's certificates.
    KubeletCertificates,
    /// Writes the kubelet's configuration.
    KubeletFiles,
    /// kube-proxy.
    KubeProxy,
    /// Labels and taints the node.
    MarkControlPlane,
    /// The same for a further control-plane node.
    MarkJoined,
    /// Makes a worker's object before its kubelet would.
    NodeObject,
    /// Writes the record of the first node.
    NodeRecord,
    /// Waits until the node is ready.
    NodeReady,
    /// Tells the container runtime the node's range of pods.
    PodNetwork,
    /// Makes the place for records.
    RecordStore,
    /// Renews what may have expired while the node was off.
    RenewCertificates,
    /// What nodes may do in the cluster.
    Rules,
    /// Makes the folders that the services' pods write to.
    ServiceFolders,
    /// Deploys the services.
    Services,
    /// Waits for the services.
    ServicesReady,
    /// Lets the kubelet start.
    StartKubelet,
    /// The first node's static pods.
    StaticPods,
    /// Leaves kubeadm's configuration in the cluster, for those who join.
    UploadConfiguration,
}

/// The first node of a cluster.
const FIRST: &[Phase] = &[
    Phase::Folders,
    Phase::ContainerRuntime,
    Phase::Images,
    Phase::Certificates,
    Phase::Kubeconfigs,
    Phase::KubeletCertificates,
    Phase::RenewCertificates,
    Phase::KubeletFiles,
    Phase::StaticPods,
    Phase::FirstPodNetwork,
    Phase::StartKubelet,
    Phase::ApiServer,
    Phase::Controllers,
    Phase::FirstNodeObject,
    Phase::Rules,
    Phase::UploadConfiguration,
    Phase::MarkControlPlane,
    Phase::KubeProxy,
    Phase::CoreDns,
    Phase::PodNetwork,
    Phase::NodeReady,
    Phase::ServiceFolders,
    // A join service that runs must find the first node's name taken.
    Phase::RecordStore,
    Phase::NodeRecord,
    Phase::Services,
    Phase::ServicesReady,
];

/// A further control-plane node.
const CONTROL_PLANE: &[Phase] = &[
    Phase::Folders,
    Phase::ContainerRuntime,
    Phase::Images,
    Phase::ControlPlaneFiles,
    Phase::AdminKubeconfig,
    Phase::JoinCertificates,
    Phase::JoinStaticPods,
    Phase::KubeletCertificates,
    Phase::RenewCertificates,
    Phase::KubeletFiles,
    Phase::StartKubelet,
    Phase::EtcdMember,
    Phase::ApiServer,
    Phase::Controllers,
    Phase::MarkJoined,
    Phase::PodNetwork,
    Phase::NodeReady,
    Phase::ServiceFolders,
];

/// A worker.
const WORKER: &[Phase] = &[
    Phase::Folders,
    Phase::KubeletCertificates,
    Phase::KubeletFiles,
    // The controller manager finds a range of pods for it meanwhile.
    Phase::NodeObject,
    Phase::ContainerRuntime,
    Phase::Images,
    Phase::PodNetwork,
    Phase::StartKubelet,
    Phase::NodeReady,
];

impl Phase {
    /// The phases of a node.
    #[must_use]
    pub fn of(node: &Node) -> &'static [Self] {
        match (node.is_control_plane(), node.state.get().origin) {
            (true, Origin::Init) => FIRST,
            (true, Origin::Join) => CONTROL_PLANE,
            (false, _) => WORKER,
        }
    }

    /// Its name in the log, in progress messages and, if it is lasting, in the state file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdminKubeconfig => "admin-kubeconfig",
            Self::ApiServer => "api-server",
            Self::Certificates => "certificates",
            Self::Controllers => "controllers",
            Self::ControlPlaneFiles => "control-plane-files",
            Self::ContainerRuntime => "container-runtime",
            Self::CoreDns => "coredns",
            Self::EtcdMember => "etcd-member",
            Self::FirstNodeObject => "first-node-object",
            Self::FirstPodNetwork => "first-pod-network",
            Self::Folders => "folders",
            Self::Images => "images",
            Self::JoinCertificates => "join-certificates",
            Self::JoinStaticPods => "join-static-pods",
            Self::Kubeconfigs => "kubeconfigs",
            Self::KubeletCertificates => "kubelet-certificates",
            Self::KubeletFiles => "kubelet-files",
            Self::KubeProxy => "kube-proxy",
            Self::MarkControlPlane => "mark-control-plane",
            Self::MarkJoined => "mark-joined",
            Self::NodeObject => "node-object",
            Self::NodeRecord => "node-record",
            Self::NodeReady => "node-ready",
            Self::PodNetwork => "pod-network",
            Self::RecordStore => "record-store",
            Self::RenewCertificates => "renew-certificates",
            Self::Rules => "rules",
            Self::ServiceFolders => "service-folders",
            Self::Services => "services",
            Self::ServicesReady => "services-ready",
            Self::StartKubelet => "start-kubelet",
            Self::StaticPods => "static-pods",
            Self::UploadConfiguration => "upload-configuration",
        }
    }

    /// Whether it is done once in a node's life.
    #[must_use]
    pub const fn is_lasting(self) -> bool {
        !matches!(
            self,
            Self::ApiServer
                | Self::ContainerRuntime
                | Self::Controllers
                | Self::Folders
                | Self::Images
                | Self::KubeletCertificates
                | Self::KubeletFiles
                | Self::NodeObject
                | Self::NodeReady
                | Self::PodNetwork
                | Self::RenewCertificates
                | Self::ServiceFolders
                | Self::StartKubelet
        )
    }

    async fn run(self, node: &mut Node) -> Result<(), PhaseError> {
        match self {
            Self::AdminKubeconfig => control_plane::admin_kubeconfig(node).await,
            Self::ApiServer => control_plane::wait_for_api_server(node).await,
            Self::Certificates => control_plane::certificates(node).await,
            Self::Controllers => control_plane::controllers::start(node).await,
            Self::ControlPlaneFiles => control_plane::place_files(node),
            Self::ContainerRuntime => containers::wait_for_runtime(node).await,
            Self::CoreDns => control_plane::coredns(node).await,
            Self::EtcdMember => control_plane::etcd_member(node).await,
            Self::FirstNodeObject => network::first_node_object(node).await,
            Self::FirstPodNetwork => network::first_pod_network(node),
            Self::Folders => folders::prepare(&node.config),
            Self::Images => containers::import_images(node).await,
            Self::JoinCertificates => control_plane::join_certificates(node).await,
            Self::JoinStaticPods => control_plane::join_static_pods(node).await,
            Self::Kubeconfigs => control_plane::kubeconfigs(node).await,
            Self::KubeletCertificates => kubelet::certificates(node),
            Self::KubeletFiles => kubelet::files(node),
            Self::KubeProxy => control_plane::kube_proxy(node).await,
            Self::MarkControlPlane => control_plane::mark(node).await,
            Self::MarkJoined => control_plane::mark_joined(node).await,
            Self::NodeObject => network::node_object(node).await,
            Self::NodeRecord => services::node_record(node).await,
            Self::NodeReady => network::wait_until_ready(node).await,
            Self::PodNetwork => network::pod_network(node).await,
            Self::RecordStore => services::record_store(node).await,
            Self::RenewCertificates => control_plane::renew_certificates(node).await,
            Self::Rules => rules::apply(node).await,
            Self::ServiceFolders => services::folders(node),
            Self::Services => services::deploy(node).await,
            Self::ServicesReady => services::wait_until_ready(node).await,
            Self::StartKubelet => {
                control_plane::controllers::hold_back(node)?;
                kubelet::start(node)
            }
            Self::StaticPods => control_plane::static_pods(node).await,
            Self::UploadConfiguration => control_plane::upload_configuration(node).await,
        }
    }
}

/// A phase that failed.
#[derive(Debug, thiserror::Error)]
#[error("phase `{phase}` failed")]
pub struct RunError {
    /// Its name.
    pub phase: &'static str,
    /// Why.
    pub source: PhaseError,
}

/// Runs all phases that are not done yet.
///
/// # Errors
/// [`RunError`]; the run can be begun again, in this process or another.
pub async fn run(node: &mut Node) -> Result<(), RunError> {
    let phases = Phase::of(node);
    let of = u32::try_from(phases.len()).unwrap_or(u32::MAX);
    for (number, phase) in (1..).zip(phases) {
        let name = phase.name();
        let failed = |source| RunError {
            phase: name,
            source,
        };
        let tell = |node: &Node, state| node.progress.phase(name, (number, of), state);
        if phase.is_lasting() && node.state.is_done(name) {
            tracing::info!(phase = name, "done before");
            tell(node, PhaseState::Done);
            continue;
        }
        tracing::info!(phase = name, number, of, "phase begins");
        tell(node, PhaseState::Running);
        let begun = std::time::Instant::now();
        if let Err(error) = phase.run(node).await {
            tell(node, PhaseState::Failed);
            return Err(failed(error));
        }
        if phase.is_lasting() {
            node.state
                .set_done(name)
                .map_err(|error| failed(error.into()))?;
        }
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(phase = name, milliseconds, "phase done");
        tell(node, PhaseState::Done);
    }
    Ok(())
}

/// What the operator does about a failure, for the end of its message.
#[must_use]
pub fn advice(error: &RunError, material: &Material) -> String {
    let next = match material {
        Material::Init(_) => {
            "it is tried again from this phase; after a reboot, run `constellation init` with the same state again"
        }
        Material::Join(_) | Material::None => {
            "it is tried again from this phase, also after a reboot"
        }
    };
    format!("{}; {next}", Chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_path_has_a_phase_twice_and_names_are_names() {
        for path in [FIRST, CONTROL_PLANE, WORKER] {
            let names: BTreeSet<_> = path.iter().map(|phase| phase.name()).collect();
            assert_eq!(names.len(), path.len());
            let plain = |name: &&str| {
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            };
            assert!(names.iter().all(plain));
        }
    }

    /// A kubelet that finds no network looks for one only every ten seconds.
    #[test]
    fn a_workers_network_is_there_before_its_kubelet() {
        let place = |wanted| WORKER.iter().position(|phase| *phase == wanted).unwrap();
        assert!(place(Phase::KubeletFiles) < place(Phase::NodeObject));
        assert!(place(Phase::NodeObject) < place(Phase::PodNetwork));
        assert!(place(Phase::PodNetwork) < place(Phase::StartKubelet));
    }

    /// What the kubelet does not start must be started later, on each path and in each boot.
    #[test]
    fn controllers_start_after_their_api_server() {
        for path in [FIRST, CONTROL_PLANE] {
            let place = |wanted| path.iter().position(|phase| *phase == wanted).unwrap();
            assert!(place(Phase::StartKubelet) < place(Phase::ApiServer));
            assert!(place(Phase::ApiServer) < place(Phase::Controllers));
        }
        assert!(!Phase::Controllers.is_lasting());
    }

    /// Else a host could let another machine join under the first node's name.
    #[test]
    fn the_first_node_has_its_record_before_anything_admits_others() {
        let place = |wanted| FIRST.iter().position(|phase| *phase == wanted).unwrap();
        assert!(place(Phase::RecordStore) < place(Phase::NodeRecord));
        assert!(place(Phase::NodeRecord) < place(Phase::Services));
    }

    /// A rejoined node runs what its boot needs, however much of its making is recorded.
    #[test]
    fn what_a_boot_needs_is_never_skipped() {
        let every_boot = |path: &[Phase]| {
            let phases = path.iter().filter(|phase| !phase.is_lasting());
            phases.map(|phase| phase.name()).collect::<Vec<_>>()
        };
        for path in [FIRST, CONTROL_PLANE, WORKER] {
            let phases = every_boot(path);
            for needed in [
                "folders",
                "kubelet-certificates",
                "start-kubelet",
                "node-ready",
            ] {
                assert!(phases.contains(&needed), "{needed}");
            }
        }
        assert_eq!(every_boot(WORKER).len(), WORKER.len());
    }
}
