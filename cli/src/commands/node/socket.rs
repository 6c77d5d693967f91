//! The operator socket of a standalone join service.

use admission::{BootClaim, OperatorAction};
use anyhow::{Context as _, Result, bail};
use api::Class;
use api::admin::{
    AcceptGenerationRequest, AdoptDiskRequest, AuditHeadRequest, BackupRequest, ForgetNodeRequest,
    ListNodesRequest, OpenControlPlaneRequest, RebindDiskRequest, RecordBootRequest, SpentBoot,
    join_admin_client::JoinAdminClient,
};
use hyper_util::rt::TokioIo;
use identity::Role;
use std::{
    io::{self, Write as _},
    path::Path,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    files,
    output::{ExitStatus, WithHint as _},
    records::Records,
};

/// The longest list of records and boots, each of some 100 bytes. They only ever grow, by what hosts
/// make their nodes do: a host that starts a node again and again must not keep the operator from them.
const MAX_ANSWER: usize = 256 << 20;

pub(super) async fn connect(socket: &Path) -> Result<JoinAdminClient<Channel>> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The URI is required and never resolved: the connector ignores it.
    let channel = Endpoint::from_static("http://operator.invalid")
        .connect_with_connector(connector)
        .await
        .map_err(unreached)
        .with_context(|| format!("connect to the join service at `{}`", socket.display()))
        .hint("run this as the service's user or root on its machine, or give `--socket`")?;
    Ok(JoinAdminClient::new(channel).max_decoding_message_size(MAX_ANSWER))
}

/// A service that is not there may come; a right that one has not does not.
fn unreached(error: tonic::transport::Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    let denied = causes.any(|cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied);
    match denied {
        true => error,
        false => error.context(ExitStatus::of(Class::Unavailable)),
    }
}

pub(super) async fn list(client: &mut JoinAdminClient<Channel>) -> Result<Records> {
    let answer = client
        .list_nodes(ListNodesRequest {})
        .await
        .map_err(refused)?;
    Records::from_message(answer.into_inner())
}

/// Asks the service for a change.
pub(super) async fn act(
    client: &mut JoinAdminClient<Channel>,
    action: &OperatorAction,
) -> Result<()> {
    let done = match action {
        OperatorAction::Forget { node } => {
            let node_name = node.to_string();
            client.forget_node(ForgetNodeRequest { node_name }).await
        }
        OperatorAction::Adopt(adoption) => {
            let request = AdoptDiskRequest {
                disk_uuid: adoption.disk.to_string(),
                node_name: adoption.node.to_string(),
                role: role_message(adoption.role).into(),
                attester: adoption.attester.to_string(),
                generation: adoption.generation.0,
            };
            client.adopt_disk(request).await
        }
        OperatorAction::Rebind { disk, attester } => {
            let request = RebindDiskRequest {
                disk_uuid: disk.to_string(),
                attester: attester.to_string(),
            };
            client.rebind_disk(request).await
        }
        OperatorAction::AcceptGeneration { disk, generation } => {
            let request = AcceptGenerationRequest {
                disk_uuid: disk.to_string(),
                generation: generation.0,
            };
            client.accept_generation(request).await
        }
        OperatorAction::OpenControlPlane { node } => {
            let node_name = node.to_string();
            let request = OpenControlPlaneRequest { node_name };
            client.open_control_plane(request).await
        }
        OperatorAction::RecordBoot(claim) => {
            let boot = Some(spent_boot(claim));
            client.record_boot(RecordBootRequest { boot }).await
        }
        other => bail!("`{}` is no call of the join service", other.name()),
    };
    done.map(drop).map_err(refused)
}

/// The last durable line of the audit log.
pub(super) async fn audit_head(client: &mut JoinAdminClient<Channel>) -> Result<audit::Head> {
    let head = client.audit_head(AuditHeadRequest {}).await;
    serde_json::from_str(&head.map_err(refused)?.into_inner().head)
        .context("answer of the join service: malformed head")
}

fn spent_boot(claim: &BootClaim) -> SpentBoot {
    SpentBoot {
        boot: claim.boot.as_bytes().to_vec(),
        disk_uuid: claim.disk.to_string(),
        sealing_key: claim.sealing_key.as_bytes().to_vec(),
        committed: claim.committed.map(|generation| generation.0),
    }
}

pub(super) async fn backup(client: &mut JoinAdminClient<Channel>, out: &Path) -> Result<u64> {
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
    let class = Class::from_grpc_code(status.code() as u32);
    anyhow::anyhow!("join service: {}", status.message()).context(ExitStatus::of(class))
}
