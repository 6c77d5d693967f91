//! A network with nodes, the images that they get, and the runs of the bootstrapper on them.

use anyhow::{Context as _, Result};
use child_process::Process;
use native_kubernetes::{Image, IsolatedNode, Kubernetes, Network, kubectl, kubernetes_images};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a node, with its images and its control plane, may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(400);

pub(crate) struct Site {
    pub(crate) network: Network,
    kubernetes: Kubernetes,
    images: TempDir,
    runs: u32,
}

/// A run of the bootstrapper.
pub(crate) struct Run {
    pub(crate) process: Process,
}

impl Site {
    pub(crate) fn start() -> Result<Self> {
        let kubernetes = Kubernetes::find()?;
        let images = TempDir::new()?;
        kubernetes_images(&kubernetes, images.path())?;
        Image::new("test.internal/busybox:1", &["/bin/busybox"])
            .program(&kubernetes.tool("bin/busybox"), "/bin/busybox")?
            .write(&images.path().join("busybox.tar"))?;
        Ok(Self {
            network: Network::start()?,
            kubernetes,
            images,
            runs: 0,
        })
    }

    /// The version of the programs, as kubeadm writes it.
    pub(crate) fn version(&self) -> &str {
        self.kubernetes.version().as_str()
    }

    pub(crate) fn node(&self, name: &str, number: u8) -> Result<IsolatedNode> {
        let mut node = IsolatedNode::start(&self.kubernetes, &self.network, name, number)?;
        node.keep_logs();
        println!("{name}: logs in {}", node.folder().display());
        fs::create_dir(node.folder().join("state"))?;
        let text = format!(
            r#"
state = "{state}"
images = "{images}"
bind = false
folders = ["/etc/cni/net.d", "/etc/kubernetes", "/var/lib/cni", "/var/lib/etcd", "/var/lib/kubelet", "/var/log/kubernetes"]
[programs]
ctr = "ctr"
kubeadm = "kubeadm"
kubelet = "kubelet"
[kubelet]
cgroup_driver = "cgroupfs"
fail_swap_on = false
eviction_hard = {{"memory.available" = "50Mi", "nodefs.available" = "1%", "imagefs.available" = "1%"}}
[cluster]
kube_proxy_sets_conntrack = false
[services]
# Their images are not part of these tests.
wait = false
"#,
            state = node.folder().join("state").display(),
            images = self.images.path().display(),
        );
        fs::write(node.folder().join("bootstrapper.toml"), text)?;
        Ok(node)
    }

    /// Starts the bootstrapper of a node.
    pub(crate) fn bootstrap(&mut self, node: &IsolatedNode) -> Result<Run> {
        self.runs += 1;
        let mut command = node.command(env!("CARGO_BIN_EXE_bootstrapper"))?;
        command
            .arg("--config")
            .arg(node.folder().join("bootstrapper.toml"));
        let process = node.spawn(&format!("bootstrapper-{}", self.runs), command)?;
        Ok(Run { process })
    }

    pub(crate) fn exists(&self, node: &IsolatedNode, path: &str) -> bool {
        node.path(path).unwrap().exists()
    }

    /// The certificate alone: a test that fails shows no key.
    pub(crate) fn certificate(&self, node: &IsolatedNode, path: &str) -> Result<String> {
        let text = node.read(path)?;
        let end = text
            .find("-----BEGIN PRIVATE")
            .context("a certificate and a key")?;
        Ok(text[..end].to_owned())
    }

    /// Applies objects as the administrator of the first node.
    pub(crate) fn apply(&self, first: &IsolatedNode, objects: &str) -> Result<()> {
        let path = first.folder().join("objects.yaml");
        fs::write(&path, objects)?;
        let path = path.display().to_string();
        kubectl(first, &["apply", "--filename", &path]).map(drop)
    }

    /// A test that passed leaves nothing behind.
    pub(crate) fn passed(self, nodes: [IsolatedNode; 2]) {
        for node in nodes {
            let folder = node.folder().to_owned();
            drop(node);
            fs::remove_dir_all(folder).unwrap();
        }
    }
}

impl Run {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.process.log()).unwrap()
    }

    /// Waits for the beginning of a phase, as the log tells it.
    pub(crate) fn wait_for_phase(&mut self, phase: &str) {
        self.wait_for(&format!(r#""message":"phase begins","phase":"{phase}""#));
    }

    pub(crate) fn wait_for(&self, text: &str) {
        let log = self.process.log();
        let end = Instant::now() + PATIENCE;
        while !fs::read_to_string(log).unwrap().contains(text) {
            let running = Path::new(&format!("/proc/{}/exe", self.process.id())).exists();
            assert!(
                running,
                "the bootstrapper ended before `{text}`:\n{}",
                self.log()
            );
            assert!(Instant::now() < end, "no `{text}`:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Waits until something is so.
pub(crate) fn eventually(limit: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !so() {
        assert!(
            Instant::now() < end,
            "it did not come about within {limit:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
