//! `constellation status`: what a cluster says about itself. Nothing of it is proven: `verify` is.

use admission::RecordState;
use anyhow::{Context as _, Result};
use clap::Args;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt as _;
use serde::Serialize;
use snp::UnixTime;
use std::{
    fmt,
    io::{IsTerminal as _, Write as _, stdout},
    path::PathBuf,
    time::Duration,
};

use crate::{
    kubernetes::{Cluster, Member},
    output::{OutputFormat, table},
};

/// Show nodes and services of a cluster.
///
/// What the API server says: nodes, roles, images and when each was attested last, services and their
/// versions. To ask the nodes themselves for evidence, use `constellation verify --kubeconfig`.
#[derive(Args, Debug)]
pub(crate) struct ClusterStatus {
    /// The administrator's kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Show it again and again, until interrupted
    #[arg(long)]
    watch: bool,
    /// How long to wait between two looks, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600), requires = "watch")]
    interval: u64,
}

impl ClusterStatus {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(async {
            let cluster = Cluster::open(&self.kubeconfig).await?;
            if !self.watch {
                return output.print(&Shown::of(&cluster).await?);
            }
            loop {
                // An API server that restarts is looked at again.
                match Shown::of(&cluster).await {
                    Ok(shown) => {
                        clear()?;
                        output.print(&shown)?;
                    }
                    Err(error) => eprintln!("warning: {error:#}"),
                }
                tokio::time::sleep(Duration::from_secs(self.interval)).await;
            }
        })
    }
}

/// Starts a screen anew; a pipe gets one look after the other.
fn clear() -> Result<()> {
    if stdout().is_terminal() {
        // ED 2 and CUP of ECMA-48.
        write!(stdout(), "\x1b[2J\x1b[H").context("write to standard output")?;
    }
    Ok(())
}

/// One look.
#[derive(Serialize)]
struct Shown {
    nodes: Vec<NodeShown>,
    services: Vec<ServiceShown>,
}

#[derive(Serialize)]
struct NodeShown {
    name: String,
    /// Of the node object; none if there is no such object.
    ready: Option<bool>,
    /// When the kubelet said so last, in seconds since 1970: etcd remembers also of machines that are off.
    heartbeat: Option<u64>,
    kubelet: Option<String>,
    address: Option<String>,
    /// Of the record; none if no join service of ours admitted the node.
    role: Option<String>,
    image: Option<String>,
    state: Option<&'static str>,
    attested: Option<String>,
    disk: Option<String>,
    generation: Option<u64>,
}

#[derive(Serialize)]
struct ServiceShown {
    name: String,
    image: Option<String>,
    wanted: i32,
    ready: i32,
    updated: i32,
}

impl Shown {
    async fn of(cluster: &Cluster) -> Result<Self> {
        let members = cluster.members().await?;
        let services = cluster.services().await?;
        Ok(Self {
            nodes: members.iter().map(NodeShown::of).collect(),
            services: services.iter().map(ServiceShown::of).collect(),
        })
    }
}

impl NodeShown {
    fn of(member: &Member) -> Self {
        let record = member.record.as_ref();
        let status = member.node.as_ref().and_then(|node| node.status.as_ref());
        let info = status.and_then(|status| status.node_info.as_ref());
        Self {
            name: member.name.clone(),
            ready: member.node.as_ref().map(|_| member.is_ready()),
            heartbeat: member.heartbeat(),
            kubelet: info.map(|info| info.kubelet_version.clone()),
            address: member.address().map(ToOwned::to_owned),
            role: record.map(|record| record.role.to_string()),
            image: record.map(|record| record.image.clone()),
            state: record.map(|record| match record.state {
                RecordState::Active => "active",
                RecordState::Issued => "issued",
                RecordState::Tombstone(_) => "tombstone",
            }),
            attested: record.map(|record| UnixTime(record.last_seen.0).to_string()),
            disk: record.map(|record| record.disk.to_string()),
            generation: record.map(|record| record.generation.0),
        }
    }

    fn row(&self) -> [String; 7] {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let ready = match self.ready {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        [
            self.name.clone(),
            or_none(&self.role),
            ready.to_owned(),
            or_none(&self.image),
            or_none(&self.attested),
            self.state.unwrap_or("NO RECORD").to_owned(),
            or_none(&self.kubelet),
        ]
    }
}

impl ServiceShown {
    fn of(set: &DaemonSet) -> Self {
        let spec = set.spec.as_ref();
        let pod = spec.and_then(|spec| spec.template.spec.as_ref());
        let container = pod.and_then(|pod| pod.containers.first());
        let status = set.status.as_ref();
        Self {
            name: set.name_any(),
            image: container.and_then(|container| container.image.clone()),
            wanted: status.map_or(0, |status| status.desired_number_scheduled),
            ready: status.map_or(0, |status| status.number_ready),
            updated: status
                .and_then(|status| status.updated_number_scheduled)
                .unwrap_or(0),
        }
    }

    fn row(&self) -> [String; 4] {
        [
            self.name.clone(),
            format!("{}/{}", self.ready, self.wanted),
            self.updated.to_string(),
            self.image.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = [
            "NODE", "ROLE", "READY", "IMAGE", "ATTESTED", "RECORD", "KUBELET",
        ];
        f.write_str(&table(&header, self.nodes.iter().map(NodeShown::row)))?;
        let header = ["SERVICE", "READY", "UPDATED", "IMAGE"];
        writeln!(f)?;
        f.write_str(&table(&header, self.services.iter().map(ServiceShown::row)))
    }
}
