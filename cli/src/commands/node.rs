//! `constellation node`: the records of a join service, over its operator socket or in its cluster.

mod socket;

use admission::{Adoption, OperatorAction};
use anyhow::{Context as _, Result, anyhow, bail};
use api::admin::join_admin_client::JoinAdminClient;
use appraisal::AttesterIdentity;
use clap::{Args, Subcommand};
use identity::{DiskId, Generation, NodeName, Role};
use serde::Serialize;
use std::{fmt, path::PathBuf};
use tonic::transport::Channel;

use crate::{
    documents,
    kubernetes::Cluster,
    output::{OutputFormat, WithHint as _},
    records::{NodeState, Record, Records},
};

/// See and change the node records of a join service.
#[derive(Args, Debug)]
pub(crate) struct Node {
    /// The join service's operator socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/constellation/join-service.sock"
    )]
    socket: PathBuf,
    /// The administrator's kubeconfig, for a join service in a cluster
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "socket")]
    kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the records; with `--output json`, what `constellation recover --records` reads
    List {
        /// Bring this records file up to date, too, and keep in it what `recover` released to boots of
        /// SEV-SNP guests
        #[arg(long, value_name = "FILE")]
        update: Option<PathBuf>,
    },
    /// Show the records of one node
    Show {
        /// The node's name
        node: NodeName,
    },
    #[command(flatten)]
    Change(Change),
    /// Tell the service which boots of SEV-SNP guests `recover` released a key to, so that they get
    /// no other; do so when it is back
    RecordBoots {
        /// The records file that `recover` kept
        #[arg(long, value_name = "FILE")]
        records: PathBuf,
    },
    /// Write a consistent copy of the store; the service starts from it as from its own file
    Backup {
        /// The copy, which must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the last durable audit line's head, to be kept elsewhere for `audit verify --heads`
    AuditHead,
}

/// What changes a record; each is audited.
#[derive(Subcommand, Debug)]
enum Change {
    /// Make a node's disk id dead for ever and free its name; its next boot joins as a new node
    Forget {
        /// The node's name
        node: NodeName,
    },
    /// Make a record for a disk that has a header and no record, as after restoring an old store
    Adopt {
        /// The disk's uuid, as on the node's console
        #[arg(long, value_name = "UUID")]
        disk: DiskId,
        /// The node's name
        #[arg(long, value_name = "NAME")]
        node: NodeName,
        /// The node's role
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// The machine that may unlock the disk, as in the refusal's log line
        #[arg(long, value_name = "HEX")]
        attester: AttesterIdentity,
        /// The oldest header generation to accept
        #[arg(long, value_name = "N")]
        generation: u64,
    },
    /// Let another machine unlock a disk, as after a change of hardware
    Rebind {
        /// The disk's uuid
        #[arg(long, value_name = "UUID")]
        disk: DiskId,
        /// The new machine, as in the refusal's log line
        #[arg(long, value_name = "HEX")]
        attester: AttesterIdentity,
    },
    /// Record a generation, also a lower one, as after putting back an old disk on purpose
    AcceptGeneration {
        /// The disk's uuid
        #[arg(long, value_name = "UUID")]
        disk: DiskId,
        /// The generation to record
        #[arg(long, value_name = "N")]
        generation: u64,
    },
    /// Let one node of this name join as a control-plane node, once
    OpenControlPlane {
        /// The node's name
        node: NodeName,
    },
}

impl Change {
    fn action(&self) -> OperatorAction {
        match self {
            Self::Forget { node } => OperatorAction::Forget { node: node.clone() },
            Self::Adopt {
                disk,
                node,
                role,
                attester,
                generation,
            } => OperatorAction::Adopt(Adoption {
                disk: *disk,
                node: node.clone(),
                role: *role,
                attester: *attester,
                generation: Generation(*generation),
            }),
            Self::Rebind { disk, attester } => OperatorAction::Rebind {
                disk: *disk,
                attester: *attester,
            },
            Self::AcceptGeneration { disk, generation } => OperatorAction::AcceptGeneration {
                disk: *disk,
                generation: Generation(*generation),
            },
            Self::OpenControlPlane { node } => {
                OperatorAction::OpenControlPlane { node: node.clone() }
            }
        }
    }

    /// What is so once it is done.
    fn done(&self) -> String {
        match self {
            Self::Forget { node } => {
                format!("Node `{node}` is forgotten; its disk id is dead, its name is free")
            }
            Self::Adopt {
                disk,
                node,
                generation,
                ..
            } => format!("Disk {disk} is node `{node}` from generation {generation} on"),
            Self::Rebind { disk, attester } => format!("Disk {disk} belongs to {attester}"),
            Self::AcceptGeneration { disk, generation } => {
                format!("Disk {disk} is accepted from generation {generation} on")
            }
            Self::OpenControlPlane { node } => {
                format!("Node `{node}` may join as a control-plane node, once")
            }
        }
    }
}

impl Node {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?
            .block_on(self.call(output))
    }

    async fn call(self, output: OutputFormat) -> Result<()> {
        let mut store = match &self.kubeconfig {
            Some(kubeconfig) => Store::Cluster(Cluster::open(kubeconfig).await?),
            None => Store::Socket(socket::connect(&self.socket).await?),
        };
        let done = |text: String| output.print(&Done { done: text });
        match self.command {
            Command::List { update } => {
                let records = store.list().await?;
                if let Some(path) = update {
                    records.update(&path)?;
                }
                output.print(&records)
            }
            Command::RecordBoots { records } => {
                let kept: Records = documents::read(&records)?;
                let known = store.list().await?;
                let mut recorded = 0;
                for boot in kept.boots_beside(&known) {
                    store.act(&OperatorAction::RecordBoot(*boot)).await?;
                    recorded += 1;
                }
                done(format!(
                    "{recorded} boots recorded; they get no key any more"
                ))
            }
            Command::Show { node } => {
                let mut records = store.list().await?;
                records.nodes.retain(|record| record.node == node);
                if records.nodes.is_empty() {
                    bail!("there is no record of node `{node}`");
                }
                output.print(&records)
            }
            Command::Change(change) => {
                store.act(&change.action()).await?;
                done(change.done())
            }
            Command::Backup { out } => {
                let bytes = socket::backup(store.socket()?, &out).await?;
                done(format!(
                    "Store copied to `{}`, {bytes} bytes",
                    out.display()
                ))
            }
            Command::AuditHead => {
                let head = socket::audit_head(store.socket()?).await?;
                output.print(&AuditHead(head))
            }
        }
    }
}

/// Where the records are.
enum Store {
    /// In a cluster; the API server's audit log has who changed what.
    Cluster(Cluster),
    /// In a standalone join service, which audits each change.
    Socket(JoinAdminClient<Channel>),
}

impl Store {
    async fn list(&mut self) -> Result<Records> {
        match self {
            Self::Cluster(cluster) => cluster.records().await,
            Self::Socket(client) => socket::list(client).await,
        }
    }

    async fn act(&mut self, action: &OperatorAction) -> Result<()> {
        match self {
            Self::Cluster(cluster) => cluster.operate(action).await,
            Self::Socket(client) => socket::act(client, action).await,
        }
    }

    fn socket(&mut self) -> Result<&mut JoinAdminClient<Channel>> {
        match self {
            Self::Cluster(_) => Err(anyhow!("a cluster's records are in etcd"))
                .hint("back up etcd; audit logs are on the control-plane nodes"),
            Self::Socket(client) => Ok(client),
        }
    }
}

#[derive(Serialize)]
struct Done {
    done: String,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.done)
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct AuditHead(audit::Head);

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return f.write_str("No nodes");
        }
        writeln!(
            f,
            "{:<16} {:<14} {:<10} {:>4}  {:<36}  {:<16} IMAGE",
            "NODE", "ROLE", "STATE", "GEN", "DISK", "ATTESTER"
        )?;
        for record in &self.nodes {
            let Record {
                node,
                role,
                state,
                generation: Generation(generation),
                disk,
                attester,
                image,
                ..
            } = record;
            let attester = attester.to_string();
            let attester = attester.get(..16).unwrap_or(&attester);
            let (role, state) = (role.to_string(), NodeState::as_str(*state));
            writeln!(
                f,
                "{node:<16} {role:<14} {state:<10} {generation:>4}  {disk}  {attester:<16} {image}"
            )?;
        }
        Ok(())
    }
}
