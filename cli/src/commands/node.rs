//! `constellation node`: the records of the join service, over its operator socket.

use admission::BootClaim;
use anyhow::{Context as _, Result, bail};
use api::admin::{
    AcceptGenerationRequest, AdoptDiskRequest, AuditHeadRequest, BackupRequest, ForgetNodeRequest,
    ListNodesRequest, OpenControlPlaneRequest, RebindDiskRequest, RecordBootRequest, SpentBoot,
    join_admin_client::JoinAdminClient,
};
use appraisal::AttesterIdentity;
use clap::{Args, Subcommand};
use hyper_util::rt::TokioIo;
use identity::{DiskId, Generation, NodeName, Role};
use serde::Serialize;
use std::{
    fmt,
    io::Write as _,
    path::{Path, PathBuf},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    documents, files,
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
    /// Asks the service for the change, and says what is so now.
    async fn apply(self, client: &mut JoinAdminClient<Channel>) -> Result<String> {
        Ok(match self {
            Self::Forget { node } => {
                let request = ForgetNodeRequest {
                    node_name: node.to_string(),
                };
                client.forget_node(request).await.map_err(refused)?;
                format!("Node `{node}` is forgotten; its disk id is dead, its name is free")
            }
            Self::Adopt {
                disk,
                node,
                role,
                attester,
                generation,
            } => {
                let request = AdoptDiskRequest {
                    disk_uuid: disk.to_string(),
                    node_name: node.to_string(),
                    role: role_message(role).into(),
                    attester: attester.to_string(),
                    generation,
                };
                client.adopt_disk(request).await.map_err(refused)?;
                format!("Disk {disk} is node `{node}` from generation {generation} on")
            }
            Self::Rebind { disk, attester } => {
                let request = RebindDiskRequest {
                    disk_uuid: disk.to_string(),
                    attester: attester.to_string(),
                };
                client.rebind_disk(request).await.map_err(refused)?;
                format!("Disk {disk} belongs to {attester}")
            }
            Self::AcceptGeneration { disk, generation } => {
                let request = AcceptGenerationRequest {
                    disk_uuid: disk.to_string(),
                    generation,
                };
                client.accept_generation(request).await.map_err(refused)?;
                format!("Disk {disk} is accepted from generation {generation} on")
            }
            Self::OpenControlPlane { node } => {
                let request = OpenControlPlaneRequest {
                    node_name: node.to_string(),
                };
                client.open_control_plane(request).await.map_err(refused)?;
                format!("Node `{node}` may join as a control-plane node, once")
            }
        })
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
        let mut client = connect(&self.socket).await?;
        let done = |text: String| output.print(&Done { done: text });
        match self.command {
            Command::List { update } => {
                let records = list(&mut client).await?;
                if let Some(path) = update {
                    records.update(&path)?;
                }
                output.print(&records)
            }
            Command::RecordBoots { records } => {
                let recorded = record_boots(&mut client, &records).await?;
                done(format!(
                    "{recorded} boots recorded; they get no key any more"
                ))
            }
            Command::Show { node } => {
                let mut records = list(&mut client).await?;
                records.nodes.retain(|record| record.node == node);
                if records.nodes.is_empty() {
                    bail!("there is no record of node `{node}`");
                }
                output.print(&records)
            }
            Command::Change(change) => done(change.apply(&mut client).await?),
            Command::Backup { out } => {
                let bytes = backup(&mut client, &out).await?;
                done(format!(
                    "Store copied to `{}`, {bytes} bytes",
                    out.display()
                ))
            }
            Command::AuditHead => {
                let head = client
                    .audit_head(AuditHeadRequest {})
                    .await
                    .map_err(refused)?;
                let head = serde_json::from_str(&head.into_inner().head)
                    .context("answer of the join service: malformed head")?;
                output.print(&AuditHead(head))
            }
        }
    }
}

/// The longest list of records and boots, each of some 100 bytes. They only ever grow, by what hosts
/// make their nodes do: a host that starts a node again and again must not keep the operator from them.
const MAX_ANSWER: usize = 256 << 20;

async fn connect(socket: &Path) -> Result<JoinAdminClient<Channel>> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The URI is required and never resolved: the connector ignores it.
    let channel = Endpoint::from_static("http://operator.invalid")
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("connect to the join service at `{}`", socket.display()))
        .hint("run this as the service's user or root on its machine, or give `--socket`")?;
    Ok(JoinAdminClient::new(channel).max_decoding_message_size(MAX_ANSWER))
}

async fn list(client: &mut JoinAdminClient<Channel>) -> Result<Records> {
    let answer = client
        .list_nodes(ListNodesRequest {})
        .await
        .map_err(refused)?;
    Records::from_message(answer.into_inner())
}

/// Sends what the service does not know; gives their number.
async fn record_boots(client: &mut JoinAdminClient<Channel>, path: &Path) -> Result<usize> {
    let kept: Records = documents::read(path)?;
    let known = list(client).await?;
    let mut recorded = 0;
    for boot in kept.boots_beside(&known) {
        let request = RecordBootRequest {
            boot: Some(spent_boot(boot)),
        };
        client.record_boot(request).await.map_err(refused)?;
        recorded += 1;
    }
    Ok(recorded)
}

fn spent_boot(claim: &BootClaim) -> SpentBoot {
    SpentBoot {
        boot: claim.boot.as_bytes().to_vec(),
        disk_uuid: claim.disk.to_string(),
        sealing_key: claim.sealing_key.as_bytes().to_vec(),
        committed: claim.committed.map(|generation| generation.0),
    }
}

async fn backup(client: &mut JoinAdminClient<Channel>, out: &Path) -> Result<u64> {
    let mut chunks = client
        .backup(BackupRequest {})
        .await
        .map_err(refused)?
        .into_inner();
    let mut file = files::create_secret(out)?;
    let mut bytes = 0_u64;
    let copied = async {
        while let Some(chunk) = chunks.message().await.map_err(refused)? {
            file.write_all(&chunk.data)?;
            bytes = bytes.saturating_add(chunk.data.len() as u64);
        }
        file.sync_all()?;
        anyhow::Ok(())
    };
    if let Err(error) = copied.await {
        // Half a store must not look like a backup.
        drop(std::fs::remove_file(out));
        return Err(error.context(format!("back up to `{}`", out.display())));
    }
    Ok(bytes)
}

fn role_message(role: Role) -> api::admin::NodeRole {
    match role {
        Role::ControlPlane => api::admin::NodeRole::ControlPlane,
        Role::Worker => api::admin::NodeRole::Worker,
    }
}

fn refused(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("join service: {}", status.message())
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
