//! The folder of a mini cluster, and its plan.

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File},
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};
use vm::free_port;

use crate::{files, output::WithHint as _};

/// The longest path of a Unix socket (unix(7): 108 bytes with the zero), less the longest name of ours.
const MAX_FOLDER: usize = 107 - "/run/worker-15.tpm.sock".len();

/// The first machine's address: user networking hands them out in order, from here.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// The folder of one cluster.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

/// What the cluster is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    version: u32,
    /// Folder of the image that the cluster was made with.
    pub(super) image: PathBuf,
    /// The image that shows what the firmware measures.
    pub(super) probe: PathBuf,
    /// QEMU.
    pub(super) qemu: PathBuf,
    /// Memory of each machine.
    pub(super) memory_mib: u32,
    /// Machines in the order of their addresses; the first is the control plane.
    pub(super) nodes: Vec<Node>,
}

/// One machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    /// Name of the node, and of its files.
    pub(super) name: String,
    /// Address in the network of the machines.
    pub(super) address: Ipv4Addr,
    /// Where this computer reaches it: loopback ports.
    pub(super) ports: Ports,
    /// Folder of its image.
    pub(super) image: PathBuf,
}

/// Loopback ports that lead to a machine.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ports {
    /// To 30091: agent, then the bootstrapper of an init.
    pub(super) agent: u16,
    /// To 30081: verification service.
    pub(super) verification: u16,
    /// To 6443: Kubernetes' API; workers have none.
    pub(super) api: Option<u16>,
}

impl Plan {
    pub(super) const fn new(image: PathBuf, probe: PathBuf, qemu: PathBuf) -> Self {
        Self {
            version: 1,
            image,
            probe,
            qemu,
            memory_mib: 3072,
            nodes: Vec::new(),
        }
    }

    /// Adds machines; none goes.
    pub(super) fn set_nodes(&mut self, nodes: u8) -> Result<()> {
        if usize::from(nodes) < self.nodes.len() {
            return Err(anyhow!("the cluster has {} machines", self.nodes.len()))
                .hint("`constellation mini down --delete` and `up` make a smaller one");
        }
        for index in u8::try_from(self.nodes.len())?..nodes {
            self.nodes.push(Node::new(index, &self.image)?);
        }
        Ok(())
    }
}

impl Node {
    fn new(index: u8, image: &Path) -> Result<Self> {
        let [a, b, c, d] = FIRST_ADDRESS.octets();
        let name = match index {
            0 => "control-0".to_owned(),
            _ => format!("worker-{index}"),
        };
        Ok(Self {
            name,
            address: Ipv4Addr::new(a, b, c, d.saturating_add(index)),
            ports: Ports {
                agent: free_port()?,
                verification: free_port()?,
                api: (index == 0).then(free_port).transpose()?,
            },
            image: image.to_owned(),
        })
    }

    pub(super) fn is_control_plane(&self) -> bool {
        self.ports.api.is_some()
    }
}

impl Folder {
    /// Makes the folder, or opens it.
    pub(super) fn make(dir: Option<PathBuf>) -> Result<Self> {
        let dir = dir.map_or_else(default_folder, Ok)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let make = |path: &Path| {
            let shown = path.display();
            builder
                .create(path)
                .with_context(|| format!("make folder `{shown}`"))
        };
        make(&dir)?;
        let dir = dir.canonicalize()?;
        if dir.as_os_str().len() > MAX_FOLDER {
            return Err(anyhow!(
                "the path `{}` is too long for sockets in it",
                dir.display()
            ))
            .hint(format!("give a `--dir` of at most {MAX_FOLDER} bytes"));
        }
        for part in ["run", "nodes", "images"] {
            make(&dir.join(part))?;
        }
        Ok(Self(dir))
    }

    /// Opens the folder of a cluster that was made.
    pub(super) fn open(dir: Option<PathBuf>) -> Result<Self> {
        let dir = dir.map_or_else(default_folder, Ok)?;
        let folder = Self(dir.canonicalize().unwrap_or(dir));
        if !folder.file("mini.json").is_file() {
            return Err(anyhow!("no cluster in `{}`", folder.0.display()))
                .hint("`constellation mini up` makes one");
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The folder of one machine.
    pub(super) fn node(&self, name: &str) -> PathBuf {
        self.0.join("nodes").join(name)
    }

    /// A socket or a process file.
    pub(super) fn run(&self, name: &str) -> PathBuf {
        self.0.join("run").join(name)
    }

    /// One command at a time.
    pub(super) fn lock(&self) -> Result<File> {
        let lock = File::create(self.file("lock")).context("open the folder's lock")?;
        if lock.try_lock().is_err() {
            bail!(
                "another `constellation mini` works on `{}`",
                self.0.display()
            );
        }
        Ok(lock)
    }

    pub(super) fn plan(&self) -> Result<Option<Plan>> {
        let path = self.file("mini.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = files::read_text(&path)?;
        let plan: Plan =
            serde_json::from_str(&text).with_context(|| format!("read `{}`", path.display()))?;
        if plan.version != 1 {
            bail!("`{}` has version {}, not 1", path.display(), plan.version);
        }
        Ok(Some(plan))
    }

    pub(super) fn existing_plan(&self) -> Result<Plan> {
        self.plan()?.context("the folder has no `mini.json`")
    }

    pub(super) fn store(&self, plan: &Plan) -> Result<()> {
        let text = serde_json::to_vec_pretty(plan).context("encode the plan")?;
        files::replace(&self.file("mini.json"), &text)
    }

    /// Deletes everything; only a folder that holds a cluster comes here.
    pub(super) fn delete(self) -> Result<()> {
        fs::remove_dir_all(&self.0).with_context(|| format!("delete `{}`", self.0.display()))
    }
}

/// `$XDG_STATE_HOME/constellation/mini`, or the same below `~/.local/state`.
fn default_folder() -> Result<PathBuf> {
    let absolute = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let state = state.context("neither XDG_STATE_HOME nor HOME is set");
    Ok(state.hint("give `--dir DIR`")?.join("constellation/mini"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let mut plan = Plan::new("/image".into(), "/probe".into(), "/qemu".into());
        plan.set_nodes(2).unwrap();
        plan
    }

    #[test]
    fn the_first_machine_is_the_control_plane_and_addresses_follow_the_order() {
        let mut plan = plan();
        plan.set_nodes(3).unwrap();
        assert!(plan.set_nodes(1).is_err(), "none goes");
        let names: Vec<_> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["control-0", "worker-1", "worker-2"]);
        assert_eq!(plan.nodes[2].address, Ipv4Addr::new(10, 0, 2, 17));
        let control: Vec<_> = plan.nodes.iter().map(Node::is_control_plane).collect();
        assert_eq!(control, [true, false, false]);
    }

    #[test]
    fn a_plan_is_read_back_and_one_of_another_version_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::make(Some(dir.path().to_owned())).unwrap();
        assert!(folder.plan().unwrap().is_none());
        let mut plan = plan();
        folder.store(&plan).unwrap();
        assert_eq!(folder.existing_plan().unwrap().nodes.len(), 2);
        plan.version = 2;
        folder.store(&plan).unwrap();
        assert!(folder.plan().is_err());
    }

    #[test]
    fn a_folder_without_a_cluster_is_not_opened_so_that_none_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let error = Folder::open(Some(dir.path().to_owned())).unwrap_err();
        assert!(format!("{error:#}").contains("no cluster"), "{error:#}");
    }

    #[test]
    fn two_commands_do_not_work_on_one_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::make(Some(dir.path().to_owned())).unwrap();
        let _lock = folder.lock().unwrap();
        assert!(folder.lock().is_err());
    }
}
