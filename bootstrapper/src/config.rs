//! The configuration file; docs/bootstrapper.md documents every key. It is part of the measured image.

use serde::{Deserialize, Serialize};
use service_runtime::{
    config::{LogFormat, Seconds, count},
    program::ServiceConfig,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
};

/// The configuration of the bootstrapper. Every key has a default, so an empty file is one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How to log.
    pub log: LogFormat,
    /// Where the agent left the hand-off, on a tmpfs.
    pub hand_off: PathBuf,
    /// Where the state file system is mounted.
    pub state: PathBuf,
    /// Folders that live on the state file system. Each is bind-mounted from below [`Self::state`],
    /// unless [`Self::bind`] says no.
    pub folders: Vec<PathBuf>,
    /// Whether [`Self::folders`] are bind mounts; without, they are made where they are.
    pub bind: bool,
    /// Archives in this folder, `*.tar`, are imported as container images.
    pub images: PathBuf,
    /// The address that the API server is told to advertise and the kubelet to report. Without it, the
    /// one that packets to the API endpoint leave from.
    pub node_address: Option<IpAddr>,
    /// Port of a control-plane node's own API server.
    pub api_server_port: u16,
    /// Where an init is followed.
    pub progress_listen: SocketAddr,
    /// Programs.
    pub programs: Programs,
    /// The container runtime's socket.
    pub runtime_socket: PathBuf,
    /// The kubelet.
    pub kubelet: Kubelet,
    /// What an init makes.
    pub cluster: Cluster,
    /// The services that an init deploys.
    pub services: Services,
    /// How long things may take.
    pub limits: Limits,
}

/// The programs that the bootstrapper starts: absolute paths, or names that `PATH` finds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "each is the path of the program of its name")]
pub struct Programs {
    pub ctr: PathBuf,
    pub ip: PathBuf,
    pub iptables: PathBuf,
    pub kubeadm: PathBuf,
    pub kubelet: PathBuf,
}

/// Settings of the kubelet, on top of the fixed ones in `templates/kubelet.yaml`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kubelet {
    /// Who makes cgroups: `systemd` or `cgroupfs`. Must be what the container runtime says.
    pub cgroup_driver: CgroupDriver,
    /// Whether the kubelet refuses kernel settings other than its own, instead of changing them.
    pub protect_kernel_defaults: bool,
    /// Whether the kubelet refuses to run beside swap.
    pub fail_swap_on: bool,
    /// Time limit of most requests to the container runtime.
    pub runtime_request_seconds: NonZeroU32,
    /// How often the kubelet reports.
    pub status_update_seconds: NonZeroU32,
    /// Thresholds below which pods are evicted; empty for the kubelet's own.
    pub eviction_hard: BTreeMap<String, String>,
    /// More flags, as `--name=value`.
    pub flags: Vec<KubeletFlag>,
}

/// A flag of the kubelet that acts whenever it runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct KubeletFlag(String);

impl KubeletFlag {
    /// As on the kubelet's command line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a kubelet says of its node only when it makes the node's object. A worker's is there before.
const OF_THE_OBJECT: [&str; 5] = [
    "--node-labels",
    "--provider-id",
    "--register-node",
    "--register-schedulable",
    "--register-with-taints",
];

impl TryFrom<String> for KubeletFlag {
    type Error = String;

    fn try_from(flag: String) -> Result<Self, Self::Error> {
        let (name, _) = flag.split_once('=').unwrap_or((&flag, ""));
        // The kubelet takes one for the other.
        let name = name.replace('_', "-");
        if OF_THE_OBJECT.contains(&name.as_str()) {
            return Err(format!(
                "the kubelet's flag `{name}` acts only when a kubelet makes its node's object, which on a worker \
                 the bootstrapper does; set labels and taints with `kubectl`"
            ));
        }
        // They are words of one quoted line in an environment file.
        let plain = |c: char| c.is_ascii_graphic() && !"\"'\\$`".contains(c);
        match name.len() > 2 && name.starts_with("--") && flag.chars().all(plain) {
            true => Ok(Self(flag)),
            false => Err(format!(
                "`{flag}` is not `--name=value` without spaces and quotes"
            )),
        }
    }
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Whoever starts a container, in the cgroup file system.
    Cgroupfs,
    /// systemd.
    Systemd,
}

/// What an init makes of the cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// Where images of the control plane are named after; without it, kubeadm's own.
    pub image_repository: Option<String>,
    /// Whether CoreDNS is deployed, as kubeadm does it. Its image must be among the baked-in ones.
    pub coredns: bool,
    /// Whether kube-proxy sets the limits of the kernel's connection table. In a network namespace
    /// it cannot.
    pub kube_proxy_sets_conntrack: bool,
}

/// The services that an init deploys.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Services {
    /// The tag of their images.
    pub version: String,
    /// The TPM that nodes attest with: a device, or `unix:` and the path of a socket.
    pub tpm: String,
    /// Where nodes find their measured command line, which names the kind of evidence.
    pub command_line: String,
    /// Whether an init is over only when they are ready. Without, their images may come later.
    pub wait: bool,
}

/// Time limits.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Any one program that is started, except those with a limit of their own.
    pub program_seconds: Seconds,
    /// The import of one image.
    pub image_seconds: Seconds,
    /// From the start of the kubelet to an API server that is ready. The static pods' start-up probes get
    /// the same limit.
    pub control_plane_seconds: Seconds,
    /// From the start of the kubelet to a node that is ready.
    pub node_seconds: Seconds,
    /// Until the services of a new cluster are ready.
    pub services_seconds: Seconds,
    /// How long the leader among controller managers, and among schedulers, may be silent.
    pub leader_lease_seconds: LeaderLease,
}

/// Seconds; 15 or more.
///
/// A leader that cannot renew its lease in two thirds of it stops and is started anew, which costs a slow machine
/// more than it has. It tries each 2/15 of it: with 15 s these are Kubernetes' own values
/// (`k8s.io/component-base`, `LeaderElectionConfiguration`).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u16")]
pub struct LeaderLease(u16);

impl LeaderLease {
    /// The arguments of a controller manager or scheduler, by name.
    #[must_use]
    pub fn arguments(self) -> [(&'static str, String); 3] {
        let Self(lease) = self;
        [
            ("leader-elect-lease-duration", format!("{lease}s")),
            ("leader-elect-renew-deadline", format!("{}s", lease / 3 * 2)),
            ("leader-elect-retry-period", format!("{}s", lease / 15 * 2)),
        ]
    }
}

impl TryFrom<u16> for LeaderLease {
    type Error = &'static str;

    fn try_from(seconds: u16) -> Result<Self, Self::Error> {
        match seconds {
            15.. => Ok(Self(seconds)),
            _ => Err("a leader's lease is 15 s or longer"),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: LogFormat::default(),
            hand_off: hand_off::FOLDER.into(),
            state: "/run/state".into(),
            folders: [
                "/etc/cni/net.d",
                "/etc/kubernetes",
                "/var/lib/cni",
                "/var/lib/containerd",
                "/var/lib/etcd",
                "/var/lib/kubelet",
                "/var/log/kubernetes",
                "/var/log/pods",
            ]
            .map(PathBuf::from)
            .into(),
            bind: true,
            images: "/usr/lib/constellation/images".into(),
            node_address: None,
            api_server_port: 6443,
            progress_listen: (Ipv4Addr::UNSPECIFIED, 30091).into(),
            programs: Programs::default(),
            runtime_socket: "/run/containerd/containerd.sock".into(),
            kubelet: Kubelet::default(),
            cluster: Cluster::default(),
            services: Services::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            ctr: "/usr/bin/ctr".into(),
            ip: "/usr/sbin/ip".into(),
            iptables: "/usr/sbin/iptables".into(),
            kubeadm: "/usr/bin/kubeadm".into(),
            kubelet: "/usr/bin/kubelet".into(),
        }
    }
}

impl Default for Kubelet {
    fn default() -> Self {
        Self {
            cgroup_driver: CgroupDriver::Systemd,
            protect_kernel_defaults: true,
            fail_swap_on: true,
            runtime_request_seconds: count(120),
            status_update_seconds: count(10),
            eviction_hard: BTreeMap::new(),
            flags: Vec::new(),
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            image_repository: None,
            coredns: false,
            kube_proxy_sets_conntrack: true,
        }
    }
}

impl Default for Services {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tpm: manifests::Attestation::default().tpm,
            command_line: manifests::Attestation::default().command_line,
            wait: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            program_seconds: Seconds::new(count(120)),
            image_seconds: Seconds::new(count(300)),
            control_plane_seconds: Seconds::new(count(240)),
            node_seconds: Seconds::new(count(300)),
            services_seconds: Seconds::new(count(300)),
            leader_lease_seconds: LeaderLease(15),
        }
    }
}

impl ServiceConfig for Config {
    fn log_format(&self) -> LogFormat {
        self.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_of_the_default_lease_is_as_kubernetes_has_it() {
        let of = |config: &str| toml::from_str::<Config>(config).unwrap().limits;
        let values = |limits: Limits| limits.leader_lease_seconds.arguments().map(|(_, it)| it);
        assert_eq!(values(of("")), ["15s", "10s", "2s"]);
        let long = of("[limits]\nleader_lease_seconds = 60");
        assert_eq!(values(long), ["60s", "40s", "8s"]);
    }

    #[test]
    fn an_empty_file_is_a_configuration_and_a_wrong_key_is_none() {
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config.progress_listen.port(), 30091);
        assert_eq!(config.kubelet.cgroup_driver, CgroupDriver::Systemd);
        let more: Config = toml::from_str("[kubelet]\nflags = [\"--v=4\"]").unwrap();
        assert_eq!(more.kubelet.flags[0].as_str(), "--v=4");
        for wrong in [
            "insecure = true",
            "[kubelet]\ncgroup_driver = \"docker\"",
            "[kubelet]\nanonymous = true",
            "[kubelet]\nflags = [\"--register-with-taints=a=b:NoSchedule\"]",
            "[kubelet]\nflags = [\"--node-labels=a=b\"]",
            "[kubelet]\nflags = [\"--v=4 --node-labels=a=b\"]",
            "[kubelet]\nflags = [\"--node_labels=a=b\"]",
            "[kubelet]\nflags = [\"v=4\"]",
            "[kubelet]\nflags = [\"--\"]",
            "[limits]\nnode_seconds = 0",
            "[limits]\nleader_lease_seconds = 14",
        ] {
            assert!(toml::from_str::<Config>(wrong).is_err(), "{wrong}");
        }
    }
}
