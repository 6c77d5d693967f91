//! A node: namespaces, a TPM, a folder for a state disk, and the programs of a measured image.

use crate::{expiry::Authorities, tpm::Tpm};
use anyhow::{Context as _, Result};
use kubernetes_binaries::Kubernetes;
use native_agent::Settings;
use native_kubernetes::{IsolatedNode, Network};
use qemu_tests::program;
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the bootstrapper says that the kubelet may start.
const START_KUBELET: &str = "/run/constellation/start-kubelet";

/// Where a node finds its TPM, and its measured command line. The same on every node, as on machines.
const TPM: &str = "/run/machine/tpm.sock";
const COMMAND_LINE: &str = "/run/machine/cmdline";

/// Where an agent is pushed to, and then the bootstrapper followed.
const PUSH_PORT: u16 = 30091;

/// One node.
#[derive(Debug)]
pub struct Node {
    isolated: IsolatedNode,
    tpm: Tpm,
    role: &'static str,
    boots: u32,
}

impl Node {
    /// A node with a new TPM and a blank disk, switched on; its agent does not run yet. Its host hints that
    /// it be of this role.
    ///
    /// # Errors
    /// If the kernel refuses namespaces.
    pub fn new(
        kubernetes: &Kubernetes,
        network: &Network,
        tpm: Tpm,
        (name, number): (&str, u8),
        role: &'static str,
    ) -> Result<Self> {
        Ok(Self {
            isolated: IsolatedNode::start(kubernetes, network, name, number)?,
            tpm,
            role,
            boots: 0,
        })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.isolated.name()
    }

    /// The address in the network.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.isolated.address()
    }

    /// Whether its host hints that it be a control-plane node.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        self.role == "control-plane"
    }

    /// The namespaces.
    #[must_use]
    pub const fn isolated(&mut self) -> &mut IsolatedNode {
        &mut self.isolated
    }

    /// Where its agent waits, and then its bootstrapper.
    #[must_use]
    pub fn push_address(&self) -> SocketAddr {
        (self.isolated.address(), PUSH_PORT).into()
    }

    /// Boots what is in the initramfs and after it: the agent, then the bootstrapper, which goes on
    /// running. `endpoints` are where join services may be; nobody is waited for.
    ///
    /// # Errors
    /// If a program does not start.
    pub fn boot(&mut self, owner: &str, endpoints: &[String], images: &Path) -> Result<()> {
        let folder = self.isolated.folder().to_owned();
        let settings = Settings {
            owner: owner.to_owned(),
            tpm: self.tpm.socket()?,
            disk: folder.join("state"),
            hand_off: "/run/constellation".into(),
            hints: self.hints(endpoints),
        };
        let settings_file = folder.join("agent.json");
        std::fs::write(&settings_file, serde_json::to_vec(&settings)?)?;
        let config_file = folder.join("bootstrapper.toml");
        std::fs::write(&config_file, self.bootstrapper(images))?;
        self.put_devices(owner)?;
        self.isolated.serve_kubelet(START_KUBELET)?;
        self.boots += 1;
        let mut command = self.isolated.command("sh")?;
        // The agent runs in the initramfs, so the bootstrapper starts when it has handed off.
        command.args(["-ec", r#""$0" "$1" && exec "$2" --config "$3""#]);
        command.arg(program("native-agent")?).arg(&settings_file);
        command.arg(program("bootstrapper")?).arg(&config_file);
        let process = self
            .isolated
            .spawn(&format!("boot-{}", self.boots), command)?;
        self.isolated.keep(process)
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// If a process does not go.
    pub fn power_off(&mut self) -> Result<()> {
        self.isolated.power_off()
    }

    /// Restores the power: the TPM is reset, `image` was booted, the state disk stayed, nothing runs yet.
    ///
    /// # Errors
    /// If namespaces or TPM do not come.
    pub fn power_on(&mut self, network: &Network, image: &str) -> Result<()> {
        self.tpm.reboot(image)?;
        self.isolated.power_on(network)
    }

    /// The keys of the cluster's authorities, from the disk of a control-plane node that is off.
    ///
    /// # Errors
    /// If they are not there.
    pub fn authorities(&self) -> Result<Authorities> {
        Authorities::read(&self.on_disk("/etc/kubernetes/pki"))
    }

    /// Ends all certificates on the disk of a node that is off. Gives how many there are.
    ///
    /// # Errors
    /// If one of them is not as it should be.
    pub fn expire(&self, authorities: &Authorities) -> Result<usize> {
        authorities.expire(|path| self.on_disk(path))
    }

    /// Where a file of the node is while it is off (`native-kubernetes`, `init.sh`).
    fn on_disk(&self, path: &str) -> PathBuf {
        let folder = match path.starts_with("/var") {
            true => "data".to_owned(),
            false => "overlay/etc/upper".to_owned(),
        };
        let path = path.strip_prefix("/etc").unwrap_or(path);
        self.isolated
            .folder()
            .join(folder)
            .join(path.trim_start_matches('/'))
    }

    /// What agent and bootstrapper of the last boot said.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self
            .isolated
            .folder()
            .join(format!("boot-{}.log", self.boots));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// How long a node of a machine with two processors may take to be ready.
    #[must_use]
    pub const fn patience() -> Duration {
        Duration::from_secs(240)
    }

    fn hints(&self, endpoints: &[String]) -> Value {
        json!({"endpoints": endpoints, "node_name": self.isolated.name(), "role": self.role})
    }

    /// What a kernel and its firmware would show in the same place on every node: the command line, and
    /// the TPM.
    fn put_devices(&self, owner: &str) -> Result<()> {
        let root = format!("1:{0}:{0}", "0".repeat(64));
        self.isolated.write(
            COMMAND_LINE,
            format!(
                "constellation.owner={owner} constellation.evidence=tpm constellation.root={root}\n"
            ),
        )?;
        symlink(self.tpm.socket()?, self.isolated.path(TPM)?).context("link the TPM's socket")
    }

    /// The image's own configuration, but for what a node in namespaces cannot have.
    fn bootstrapper(&self, images: &Path) -> String {
        let state = self.isolated.folder().join("state");
        format!(
            r#"state = "{state}"
bind = false
images = "{images}"
node_address = "{address}"
# The other folders of the state disk are mounts of the node's own.
folders = [
    "/etc/cni/net.d", "/etc/kubernetes", "/var/lib/cni", "/var/lib/etcd", "/var/lib/kubelet",
    "/var/log/kubernetes",
]

[programs]
ctr = "ctr"
ip = "ip"
iptables = "iptables"
kubeadm = "kubeadm"
kubelet = "kubelet"

[kubelet]
cgroup_driver = "cgroupfs"
fail_swap_on = false
eviction_hard = {{ "memory.available" = "50Mi", "nodefs.available" = "1%", "imagefs.available" = "1%" }}

[cluster]
kube_proxy_sets_conntrack = false

[services]
tpm = "unix:{TPM}"
command_line = "{COMMAND_LINE}"
"#,
            state = state.display(),
            images = images.display(),
            address = self.isolated.address(),
        )
    }
}
