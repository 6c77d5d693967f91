//! What `mini` says about a cluster.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use std::{fmt, fs, net::Ipv4Addr, path::PathBuf};
use vm::Daemon;

use super::{
    cluster::Operator,
    folder::{Folder, Node, Ports},
    guests,
    images::name_of,
};
use crate::output::table;

/// A cluster, as its folder and its processes show it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    folder: PathBuf,
    network: bool,
    nodes: Vec<Shown>,
    /// Nodes that did not shut down by themselves; none if none was told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    power_cut: Option<Vec<String>>,
    /// Once there is one.
    kubeconfig: Option<PathBuf>,
    /// What the API server says; none if it was not asked or does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    running: bool,
    address: Ipv4Addr,
    ports: Ports,
    image: String,
    console: PathBuf,
    /// What the agent said last on the console.
    last: String,
}

impl Report {
    pub(super) fn of(folder: &Folder) -> Result<Self> {
        let plan = folder.existing_plan()?;
        let shown = plan.nodes.iter().map(|node| Shown::of(folder, node));
        let kubeconfig = folder.file("kubeconfig");
        Ok(Self {
            folder: folder.path().to_owned(),
            network: ["switch.pid", "uplink.pid"]
                .iter()
                .all(|file| Daemon::of(&folder.run(file)).is_running()),
            nodes: shown.collect::<Result<_>>()?,
            power_cut: None,
            kubeconfig: kubeconfig.exists().then_some(kubeconfig),
            cluster: None,
        })
    }

    /// The same with the nodes whose power was cut.
    pub(super) fn with_power_cut(mut self, nodes: Vec<String>) -> Self {
        self.power_cut = Some(nodes);
        self
    }

    /// The same with what the API server says.
    pub(super) fn with_cluster(mut self, operator: &Operator<'_>) -> Self {
        if self.kubeconfig.is_some() && self.nodes.iter().any(|node| node.running) {
            self.cluster = operator.status().ok();
        }
        self
    }
}

impl Shown {
    fn of(folder: &Folder, node: &Node) -> Result<Self> {
        let console = folder.node(&node.name).join("console.log");
        let text = fs::read(&console).unwrap_or_default();
        Ok(Self {
            name: node.name.clone(),
            running: guests::daemon(folder, node).is_running(),
            address: node.address,
            ports: node.ports,
            image: name_of(&node.image)?,
            last: guests::last_line(&String::from_utf8_lossy(&text)).to_owned(),
            console,
        })
    }

    /// How `verify` and `upgrade` reach it from here.
    fn way(&self) -> String {
        format!("--at {}=127.0.0.1:{}", self.name, self.ports.verification)
    }

    fn row(&self) -> [String; 7] {
        let api = self
            .ports
            .api
            .map_or_else(|| "-".to_owned(), |port| port.to_string());
        [
            self.name.clone(),
            if self.running { "on" } else { "off" }.to_owned(),
            self.address.to_string(),
            self.image.clone(),
            self.ports.agent.to_string(),
            self.ports.verification.to_string(),
            api,
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "NODE", "POWER", "ADDRESS", "IMAGE", "30091", "30081", "6443",
        ];
        let rows = self.nodes.iter().map(Shown::row);
        f.write_str(&table(&header, rows))?;
        writeln!(
            f,
            "Ports are of 127.0.0.1. Folder `{}`",
            self.folder.display()
        )?;
        let nodes = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster["nodes"].as_array());
        for node in nodes.into_iter().flatten() {
            let word = |key: &str| node[key].as_str().unwrap_or("-").to_owned();
            let ready = if node["ready"] == true {
                "ready"
            } else {
                "not ready"
            };
            writeln!(
                f,
                "{}: {ready}, {}, attested {}",
                word("name"),
                word("role"),
                word("attested")
            )?;
        }
        let ways = self.nodes.iter().map(Shown::way).collect::<Vec<_>>();
        writeln!(f, "To verbs that ask the nodes: {}", ways.join(" "))?;
        match &self.kubeconfig {
            Some(file) => write!(
                f,
                "Next: `kubectl --kubeconfig {} get nodes`",
                file.display()
            ),
            None => write!(f, "Next: `constellation mini up`"),
        }
    }
}
