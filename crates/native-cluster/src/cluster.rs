//! The cluster, and what an operator does with it.

use crate::{IMAGE, Node, Owner, TpmAuthority, balancer::Balancer, images};
use anyhow::{Context as _, Result, bail};
use child_process::run;
use kubernetes_binaries::Kubernetes;
use native_kubernetes::Network;
use std::{
    panic,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Where join services listen on every control-plane node.
const JOIN_PORT: u16 = 30090;

/// Exit status of `constellation verify` when a node does not answer (docs/verify.md).
const UNAVAILABLE: i32 = 4;

/// What `kubectl` says when it got no answer; what it asked for may have been done.
const UNREACHED: &str = "Unable to connect to the server";

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_millis(500);

/// A cluster. Its nodes end with it.
#[derive(Debug)]
pub struct Cluster {
    // Dropped before the network that they are in.
    nodes: Vec<Node>,
    owner: Owner,
    authority: TpmAuthority,
    network: Network,
    balancer: Option<Balancer>,
    kubernetes: Kubernetes,
    images: PathBuf,
    image: String,
    _folder: TempDir,
}

impl Cluster {
    /// The owner's keys and documents, the container images, a network without nodes. Needs root.
    ///
    /// # Errors
    /// If a program is not built or Kubernetes is not there; the message names the command.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let kubernetes = Kubernetes::find()?;
        let images = folder.path().join("images");
        images::write(&kubernetes, &images)?;
        let authority = TpmAuthority::new()?;
        Ok(Self {
            nodes: Vec::new(),
            owner: Owner::new(&folder.path().join("owner"), &authority)?,
            authority,
            network: Network::start()?,
            balancer: None,
            kubernetes,
            images,
            image: IMAGE.to_owned(),
            _folder: folder,
        })
    }

    /// The same, with an API endpoint that is no node's address: one that outlives any of them.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_balancer() -> Result<Self> {
        let mut cluster = Self::new()?;
        cluster.balancer = Some(Balancer::start(&cluster.network)?);
        Ok(cluster)
    }

    /// The owner.
    #[must_use]
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The network of the nodes.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// A node by its place, from 0.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn node(&mut self, index: usize) -> Result<&mut Node> {
        self.nodes.get_mut(index).context("no such node")
    }

    /// Adds a machine, switched on and booting: it asks the join services of the control-plane nodes, if
    /// there are any yet, and waits for a push else.
    ///
    /// # Errors
    /// If the machine cannot be made.
    pub fn add_node(&mut self, name: &str) -> Result<()> {
        self.add(name, "worker")
    }

    /// The same for one whose host hints that it be a control-plane node.
    ///
    /// # Errors
    /// If the machine cannot be made.
    pub fn add_control_plane(&mut self, name: &str) -> Result<()> {
        self.add(name, "control-plane")
    }

    /// Adds a machine that is switched on and does not boot before [`Self::boot`].
    ///
    /// # Errors
    /// If the machine cannot be made.
    pub fn install_node(&mut self, name: &str) -> Result<()> {
        self.install(name, "worker")
    }

    fn add(&mut self, name: &str, role: &'static str) -> Result<()> {
        self.install(name, role)?;
        self.boot(self.nodes.len() - 1)
    }

    fn install(&mut self, name: &str, role: &'static str) -> Result<()> {
        let number = u8::try_from(self.nodes.len() + 1)?;
        let node = Node::new(
            &self.kubernetes,
            &self.network,
            self.authority.manufacture(&self.image)?,
            (name, number),
            role,
        )?;
        if let Some(balancer) = &self.balancer
            && (self.nodes.is_empty() || node.is_control_plane())
        {
            balancer.add(Network::address(number));
        }
        self.nodes.push(node);
        Ok(())
    }

    /// What machines boot from now on, whatever they booted before.
    pub fn insert(&mut self, image: &str) {
        image.clone_into(&mut self.image);
    }

    /// Cuts a node's power.
    ///
    /// # Errors
    /// If a process does not go.
    pub fn power_off(&mut self, index: usize) -> Result<()> {
        self.node(index)?.power_off()
    }

    /// Boots a node that is off.
    ///
    /// # Errors
    /// If the machine cannot be started.
    pub fn power_on(&mut self, index: usize) -> Result<()> {
        let node = self.nodes.get_mut(index).context("no such node")?;
        node.power_on(&self.network, &self.image)?;
        self.boot(index)
    }

    /// Boots a node that has power, for the first time since it has.
    ///
    /// # Errors
    /// If its programs do not start.
    pub fn boot(&mut self, index: usize) -> Result<()> {
        // The first node becomes one by its init, whatever its host hints.
        let serving = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(at, node)| *at != index && (*at == 0 || node.is_control_plane()));
        let endpoints: Vec<_> = serving
            .map(|(_, node)| format!("{}:{JOIN_PORT}", node.address()))
            .collect();
        let node = self.nodes.get_mut(index).context("no such node")?;
        node.boot(self.owner.fingerprint(), &endpoints, &self.images)
    }

    /// `constellation init` of the first node; gives the command, which may be run again.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn init_command(&mut self) -> Result<Command> {
        let push = self.node(0)?.push_address().to_string();
        let name = self.node(0)?.isolated().name().to_owned();
        let mut command = self.constellation(&["init", &push])?;
        self.owner.judge(&mut command);
        self.owner.act(&mut command);
        command.args(["--node-name", &name]);
        let endpoint = match &self.balancer {
            Some(_) => Balancer::endpoint(),
            None => format!("{}:6443", Network::address(1)),
        };
        command.args(["--endpoint", &endpoint]);
        command.args(["--kubernetes-version", self.kubernetes.version().as_str()]);
        command.args(["--pod-subnet", "10.20.0.0/16"]);
        command.args(["--service-subnet", "10.96.0.0/16"]);
        command.args(["--wait", "60"]);
        command.arg("--workspace").arg(self.owner.workspace());
        Ok(command)
    }

    /// `constellation status`.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn status_command(&self) -> Result<Command> {
        let mut command = self.constellation(&["status"])?;
        command.arg("--kubeconfig").arg(self.owner.kubeconfig());
        Ok(command)
    }

    /// `constellation node` with these words.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn node_command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.constellation(&["node"])?;
        command.args(words);
        command.arg("--kubeconfig").arg(self.owner.kubeconfig());
        Ok(command)
    }

    /// A node's answer to `GET /?nonce=`, as any tool outside of the nodes gets it.
    ///
    /// # Errors
    /// If there is none.
    pub fn statement(&mut self, index: usize, nonce: &str) -> Result<String> {
        let address = self.node(index)?.address();
        let url = format!("http://{address}:30080/?nonce={nonce}");
        let mut curl = self.network.command("curl");
        run(curl.args(["--silent", "--fail", &url]))
    }

    /// `constellation verify` of every node.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn verify_command(&self) -> Result<Command> {
        let mut command = self.constellation(&["verify"])?;
        command.arg("--kubeconfig").arg(self.owner.kubeconfig());
        self.owner.know(&mut command);
        self.owner.judge(&mut command);
        Ok(command)
    }

    /// Waits until the verification service of each node answers, whatever it says: a node is ready before.
    ///
    /// # Errors
    /// If one does not in time.
    pub fn wait_answers(&self) -> Result<()> {
        let end = Instant::now() + Node::patience();
        while self.verify_command()?.output()?.status.code() == Some(UNAVAILABLE) {
            if Instant::now() >= end {
                bail!("a node's verification service does not answer");
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// `constellation upgrade` with these words.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn upgrade_command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.constellation(&["upgrade"])?;
        command.args(words);
        command.arg("--kubeconfig").arg(self.owner.kubeconfig());
        Ok(command)
    }

    /// `constellation recover` of a node that waits.
    ///
    /// # Errors
    /// If the program is not built.
    pub fn recover_command(&mut self, index: usize) -> Result<Command> {
        let push = self.node(index)?.push_address().to_string();
        let mut command = self.constellation(&["recover", &push])?;
        self.owner.judge(&mut command);
        self.owner.act(&mut command);
        self.owner.recover(&mut command);
        Ok(command)
    }

    /// The operator's command line, on a machine in the network of the nodes.
    ///
    /// # Errors
    /// If it is not built.
    pub fn constellation(&self, words: &[&str]) -> Result<Command> {
        let program = Owner::program()?;
        let mut command = self
            .network
            .command(program.to_str().context("a path in UTF-8")?);
        command.args(words);
        Ok(command)
    }

    /// `kubectl` as the administrator.
    #[must_use]
    pub fn kubectl(&self, words: &[&str]) -> Command {
        let kubectl = self.kubernetes.program("kubectl");
        let mut command = self.network.command(&kubectl.display().to_string());
        command.arg("--kubeconfig").arg(self.owner.kubeconfig());
        command.args(words);
        command
    }

    /// What `kubectl` answers; asked again while there is no answer, as on a busy machine: the words must bear being
    /// said twice.
    ///
    /// # Errors
    /// What it says otherwise, or in the end.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let end = Instant::now() + Node::patience();
        loop {
            let answer = run(&mut self.kubectl(words));
            let unreached = |error: &anyhow::Error| error.to_string().contains(UNREACHED);
            if !answer.as_ref().is_err_and(unreached) || Instant::now() >= end {
                return answer;
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until a node is ready in Kubernetes' own eyes.
    ///
    /// # Errors
    /// If that takes longer than it may; [`Self::logs`] says why.
    pub fn wait_ready(&self, name: &str) -> Result<()> {
        let end = Instant::now() + Node::patience();
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        loop {
            let ready = run(&mut self.kubectl(&["get", "node", name, "-o", path]));
            if ready.as_deref().is_ok_and(|status| status == "True") {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("node `{name}` is not ready: {ready:?}");
            }
            thread::sleep(POLL);
        }
    }

    /// Lives through a test's story; if that panics, all logs are printed first.
    pub fn tell(&mut self, story: impl FnOnce(&mut Self)) {
        let told = panic::catch_unwind(panic::AssertUnwindSafe(|| story(self)));
        if let Err(panicked) = told {
            println!("{}", self.logs());
            panic::resume_unwind(panicked);
        }
    }

    /// What the programs of all nodes said in their last boots.
    #[must_use]
    pub fn logs(&self) -> String {
        let logs = self.nodes.iter().map(|node| {
            let (name, log) = (node.name(), node.log());
            format!("--- {name}\n{log}\n")
        });
        logs.collect()
    }
}
