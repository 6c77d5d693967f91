//! A machine of its own in namespaces of this one.

use crate::{cgroups, folder::Folder, network::Network};
use anyhow::{Context as _, Result, bail};
use child_process::{Process, contained, run};
use container_images::PAUSE;
use kubernetes_binaries::Kubernetes;
use std::{
    ffi::OsStr,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The node's first process.
const INIT: &str = include_str!("node/init.sh");

/// What starts the kubelet.
const KUBELET: &str = include_str!("node/kubelet.sh");

/// Where the container runtime listens.
pub(crate) const RUNTIME: &str = "/run/containerd/containerd.sock";

/// How long the namespaces, or the container runtime, may take to be there, or to be gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(20);

/// A node: own processes, host name, network and mounts on this kernel, with files that are this
/// machine's until the node writes to them (`/etc`, `/var/lib`, `/opt`, `/usr/libexec`), or empty
/// (`/run`, `/var/log`). It ends with this value, and with this program at the latest; nothing stays.
///
/// A disk of it outlives [`IsolatedNode::power_off`]: [`IsolatedNode::power_on`] is the next boot.
#[derive(Debug)]
pub struct IsolatedNode {
    name: String,
    address: Ipv4Addr,
    cgroup: String,
    kubernetes: Kubernetes,
    machine: Option<Machine>,
    folder: Folder,
}

/// What is there while the power is on.
#[derive(Debug)]
struct Machine {
    // Dropped first: they are processes of the node.
    services: Vec<Process>,
    holder: Process,
    init: u32,
}

impl IsolatedNode {
    /// Starts the `number`th node of a network (1 to 253) with its container runtime; needs root.
    ///
    /// # Errors
    /// If the kernel refuses a namespace or a mount, or containerd does not start.
    pub fn start(
        kubernetes: &Kubernetes,
        network: &Network,
        name: &str,
        number: u8,
    ) -> Result<Self> {
        let folder = Folder::create("node", bury)?;
        let id = folder.path().file_name().unwrap_or_default();
        let mut node = Self {
            name: name.to_owned(),
            address: Network::address(number),
            cgroup: id.to_string_lossy().into_owned(),
            kubernetes: kubernetes.clone(),
            machine: None,
            folder,
        };
        for (file, text) in [("init.sh", INIT), ("kubelet.sh", KUBELET)] {
            fs::write(node.file(file), text)?;
        }
        fs::write(node.file("containerd.toml"), node.runtime_configuration())?;
        node.power_on(network)?;
        Ok(node)
    }

    /// Switches a node on that is off: a boot, with what is on its disk.
    ///
    /// # Errors
    /// As [`IsolatedNode::start`].
    pub fn power_on(&mut self, network: &Network) -> Result<()> {
        if self.machine.is_some() {
            bail!("`{}` is on", self.name);
        }
        cgroups::make(&self.cgroup)?;
        let mut command = contained("unshare");
        command.args(["--mount", "--net", "--uts", "--ipc", "--pid"]);
        command.args(["--fork", "--kill-child", "--mount-proc", "--", "bash"]);
        command.arg(self.file("init.sh")).arg(self.folder.path());
        command.arg(&self.name).arg(self.address.to_string());
        command.arg(Network::GATEWAY.to_string());
        command.arg(self.kubernetes.tool("usr/lib/cni"));
        let holder = Process::spawn_lasting(&self.name, command, &self.file("init.log"))?;
        let init = wait(&holder, || child(holder.id()))?;
        self.machine = Some(Machine {
            services: Vec::new(),
            holder,
            init,
        });
        network.attach(init)?;
        let machine = self.machine()?;
        wait(&machine.holder, || {
            self.path("/run/node-is-up").ok()?.exists().then_some(())
        })?;
        self.start_runtime()
    }

    /// Cuts the power: all processes are killed, and what is not on the disk is gone.
    ///
    /// # Errors
    /// If a process does not go.
    pub fn power_off(&mut self) -> Result<()> {
        if let Some(machine) = self.machine.take() {
            machine.kill(&self.name)?;
        }
        // They are there also when the power did not come on.
        cgroups::remove(&self.cgroup)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address in the network.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The group below which the kubelet has to put everything: `--cgroup-root=/<this>`.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A folder of the node that both sides see under this path: logs, and what is handed over. It
    /// outlives the power, and is gone with the node.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file or folder of the running node, as this side reaches it: for `std::fs`. Symbolic links on the
    /// way have to be relative.
    ///
    /// # Errors
    /// If the power is off.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(format!("/proc/{}/root{path}", self.machine()?.init).into())
    }

    /// Writes a file of the running node, with the folders above it.
    ///
    /// # Errors
    /// If the power is off, or it cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(path)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    }

    /// Reads a file of the running node.
    ///
    /// # Errors
    /// If the power is off, or it cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        let path = self.path(path)?;
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// A program of the node. Kubernetes' programs, containerd's and `runc` are on its `PATH`.
    ///
    /// # Errors
    /// If the power is off.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = contained("nsenter");
        command
            .arg("--target")
            .arg(self.machine()?.init.to_string());
        command.args([
            "--mount", "--net", "--uts", "--ipc", "--pid", "--wd=/", "--",
        ]);
        // The home is the node's as well, or caches would go to the user's.
        command.args(["env", "HOME=/run"]);
        command.arg(format!("PATH={}", self.search_path()));
        command.arg(program);
        Ok(command)
    }

    /// Runs a program of the node to its end; gives its standard output.
    ///
    /// # Errors
    /// If it fails; the message has its output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("a program")?;
        run(self.command(program)?.args(arguments))
    }

    /// Starts a program of the node; its output goes to `<name>.log` in [`IsolatedNode::folder`].
    /// It ends with the value, with the power, and with this program.
    ///
    /// # Errors
    /// If it does not start.
    pub fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::spawn_lasting(name, command, &self.file(&format!("{name}.log")))
    }

    /// Lets a kubelet run, as its unit would, from when the file `start` of the node appears: with the
    /// configuration in `/var/lib/kubelet` and the kubeconfig in `/etc/kubernetes`, until power off.
    ///
    /// # Errors
    /// If the power is off.
    pub fn serve_kubelet(&mut self, start: &str) -> Result<()> {
        let mut command = self.command("sh")?;
        command.arg(self.file("kubelet.sh"));
        command.arg(start).arg(&self.cgroup);
        let process = self.spawn("kubelet", command)?;
        self.keep(process)
    }

    /// Keeps a process until power off.
    ///
    /// # Errors
    /// If the power is off.
    pub fn keep(&mut self, process: Process) -> Result<()> {
        let machine = self.machine.as_mut().context("the power is off")?;
        machine.services.push(process);
        Ok(())
    }

    /// Imports an image archive into the container runtime.
    ///
    /// # Errors
    /// If `ctr` fails.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let mut command = self.command("ctr")?;
        command.args(["--namespace", "k8s.io", "images", "import"]);
        run(command.arg(archive)).map(drop)
    }

    /// Keeps the folder with the logs when the node goes.
    pub fn keep_logs(&mut self) {
        self.folder.keep();
    }

    fn start_runtime(&mut self) -> Result<()> {
        let mut command = self.command("containerd")?;
        command.arg("--config").arg(self.file("containerd.toml"));
        let process = self.spawn("containerd", command)?;
        wait(&process, || self.run(&["ctr", "version"]).ok())?;
        self.keep(process)
    }

    fn runtime_configuration(&self) -> String {
        let (runc, cni) = (
            self.kubernetes.tool("usr/sbin/runc"),
            self.kubernetes.tool("usr/lib/cni"),
        );
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
    "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{RUNTIME}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
# A container without CAP_SYS_RESOURCE around it may not ask for a lower score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{}"
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{}"
conf_dir = "/etc/cni/net.d"
"#,
            runc.display(),
            cni.display()
        )
    }

    fn search_path(&self) -> String {
        let tools = ["usr/bin", "usr/sbin"].map(|path| self.kubernetes.tool(path));
        let own = [self.kubernetes.programs()].into_iter();
        let own = own.chain(tools.iter().map(PathBuf::as_path));
        let own: Vec<_> = own.map(|path| path.display().to_string()).collect();
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", own.join(":"))
    }

    fn machine(&self) -> Result<&Machine> {
        let machine = self.machine.as_ref();
        machine.with_context(|| format!("`{}` is off", self.name))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Machine {
    fn kill(mut self, name: &str) -> Result<()> {
        for process in &mut self.services {
            process.kill()?;
        }
        self.holder.kill()?;
        // The kernel kills the rest; their mounts are gone with the last of them.
        let end = Instant::now() + PATIENCE;
        while Path::new(&format!("/proc/{}", self.init)).exists() {
            if Instant::now() >= end {
                bail!("processes of `{name}` do not go");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for IsolatedNode {
    fn drop(&mut self) {
        if let Err(error) = self.power_off() {
            eprintln!("node `{}`: {error:#}", self.name);
        }
    }
}

/// Whether this user may make isolated nodes, which only root may; says so if not, for a test that then
/// has nothing to do.
#[must_use]
pub fn may_isolate() -> bool {
    let may = rustix::process::geteuid().is_root();
    if !may {
        eprintln!("skipped: isolated nodes need root");
    }
    may
}

/// Ends what a killed program left of a node: its processes are gone with it, its groups are not.
fn bury(left: &Path) {
    let name = left.file_name().unwrap_or_default().to_string_lossy();
    if let Err(error) = cgroups::remove(&name) {
        eprintln!("what is left of a node: {error:#}");
    }
}

/// The one child of a process.
fn child(process: u32) -> Option<u32> {
    let path = format!("/proc/{process}/task/{process}/children");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Looks again and again, until something is there, or the process has ended, or patience has.
fn wait<T>(process: &Process, look: impl Fn() -> Option<T>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if has_ended(process.id()) || Instant::now() >= end {
            let log = fs::read_to_string(process.log()).unwrap_or_default();
            bail!("see {} (are you root?)\n{log}", process.log().display());
        }
        thread::sleep(POLL);
    }
}

/// Whether nothing is left of a process but that nobody has waited for it.
fn has_ended(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // proc_pid_stat(5): the state comes after the name in parentheses.
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with('Z'))
}
