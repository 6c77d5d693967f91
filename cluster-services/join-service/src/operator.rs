//! The operator's interface, on a Unix socket that only this service's user and root may use.

use crate::{
    failure::code,
    store::{DecisionError, Store, StoreError},
    tickets::now,
};
use admission::{
    Adoption, BootClaim, BootId, Context, NodeRecord, OperatorAction, RecordState, Refusal,
    RefusalClass, SealingKeyHash, TombstoneCause, operate,
};
use api::{
    Class,
    admin::{self, join_admin_server},
};
use appraisal::AttesterIdentity;
use audit::{Action, Outcome, RecordEvent, Text};
use identity::{Generation, KeyVersion, Role};
use service_runtime::{
    Chain,
    audit_log::{AuditLog, RecordError},
    serve::Accept,
};
use std::{fmt, fs, io, os::unix::fs::PermissionsExt, path::Path, pin::Pin, str::FromStr};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

/// Who is at the other end of the socket, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    uid: u32,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)
    }
}

/// Lets root and the service's own user in. The socket's mode says the same; this holds even where
/// a folder is shared or a mode was changed.
#[derive(Debug, Clone, Copy)]
pub struct OperatorDoor {
    own_uid: u32,
}

impl OperatorDoor {
    /// The door of the user that this process runs as.
    ///
    /// # Errors
    /// When `/proc` does not say who that is.
    pub fn new() -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        Ok(Self {
            own_uid: fs::metadata("/proc/self")?.uid(),
        })
    }
}

impl Accept<UnixStream, &'static str> for OperatorDoor {
    type Stream = UnixStream;
    type Peer = Operator;

    async fn accept(&self, io: UnixStream, _: &'static str) -> Option<(UnixStream, Operator)> {
        let uid = match io.peer_cred() {
            Ok(credentials) => credentials.uid(),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "operator unknown");
                return None;
            }
        };
        if uid != 0 && uid != self.own_uid {
            tracing::warn!(uid, "not an operator");
            return None;
        }
        Some((io, Operator { uid }))
    }
}

/// Binds the socket so that it never exists with a wider mode. The caller holds the store, so a
/// socket that is there already is left over from a crash.
///
/// # Errors
/// What the operating system said.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    let fresh = path.with_extension("new");
    for old in [path, &fresh] {
        match fs::remove_file(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Serves the operator.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The records.
    pub store: Store,
    /// The audit log.
    pub audit: AuditLog,
    /// The version of the key-encryption key that adopted disks are recorded with.
    pub key_version: KeyVersion,
}

/// Why an operator's call failed. Operators learn everything.
#[derive(Debug, thiserror::Error)]
enum AdminError {
    #[error("done, but not in the audit log")]
    Audit(#[source] RecordError),
    #[error("malformed {field}: {reason}")]
    Malformed { field: &'static str, reason: String },
    #[error("the connection has no operator")]
    NoOperator,
    #[error("refused")]
    Refused(#[source] Refusal),
    #[error("the store has no answer")]
    Store(#[source] StoreError),
}

impl From<AdminError> for Status {
    fn from(error: AdminError) -> Self {
        let code = match &error {
            AdminError::Audit(_) | AdminError::Store(_) => code(Class::Unavailable),
            AdminError::Malformed { .. } => code(Class::Malformed),
            AdminError::NoOperator => code(Class::Internal),
            AdminError::Refused(refusal) => match refusal.class() {
                RefusalClass::Internal => code(Class::Internal),
                _ => Code::FailedPrecondition,
            },
        };
        Self::new(code, Chain(&error).to_string())
    }
}

impl Admin {
    /// Acts to the end, record included, even if the operator hangs up in between.
    async fn act<M>(
        &self,
        request: &Request<M>,
        action: OperatorAction,
    ) -> Result<Response<admin::Done>, Status> {
        let operator = operator(request)?;
        let this = self.clone();
        tokio::spawn(async move { this.settle_and_record(operator, &action).await })
            .await
            .map_err(|_| AdminError::Store(StoreError::Failed))??;
        Ok(Response::new(admin::Done {}))
    }

    async fn settle_and_record(
        &self,
        operator: Operator,
        action: &OperatorAction,
    ) -> Result<(), AdminError> {
        let (mut event, outcome) = match self.settle(action).await {
            Ok(event) => (event, Ok(())),
            Err(AdminError::Refused(refusal)) => {
                let mut event =
                    RecordEvent::new(Action::OperatorAction, Outcome::Refused, action.name());
                event.checks.push(refusal.check());
                (event, Err(AdminError::Refused(refusal)))
            }
            Err(error) => return Err(error),
        };
        tracing::info!(%operator, action = action.name(), done = outcome.is_ok(), "operator");
        event.path = Some(Text::from_display(operator));
        self.audit.record(event).await.map_err(AdminError::Audit)?;
        outcome
    }

    async fn settle(&self, action: &OperatorAction) -> Result<RecordEvent, AdminError> {
        let context = Context {
            now: now(),
            key_version: self.key_version,
            live_until: None,
        };
        let shared = action.clone();
        let persisted = self
            .store
            .settle(move |snapshot| operate(&shared, &context, snapshot))
            .await
            .map_err(|error| match error {
                DecisionError::Refused(refusal) => AdminError::Refused(refusal),
                DecisionError::Store(error) => AdminError::Store(error),
            })?;
        let nothing = || RecordEvent::new(Action::OperatorAction, Outcome::Done, action.name());
        Ok(persisted.event().cloned().unwrap_or_else(nothing))
    }
}

type Chunks = Pin<Box<dyn Stream<Item = Result<admin::BackupChunk, Status>> + Send>>;

/// Bytes in one message of a backup.
const CHUNK: usize = 64 * 1024;

#[tonic::async_trait]
impl join_admin_server::JoinAdmin for Admin {
    type BackupStream = Chunks;

    async fn list_nodes(
        &self,
        _: Request<admin::ListNodesRequest>,
    ) -> Result<Response<admin::ListNodesResponse>, Status> {
        let nodes = self.store.nodes().map_err(AdminError::Store)?;
        let mut nodes: Vec<_> = nodes.into_iter().map(node).collect();
        nodes.sort_by(|a, b| (&a.node_name, a.created).cmp(&(&b.node_name, b.created)));
        let boots = self.store.spent_boots().map_err(AdminError::Store)?;
        let boots = boots.iter().map(spent_boot).collect();
        Ok(Response::new(admin::ListNodesResponse { nodes, boots }))
    }

    async fn forget_node(
        &self,
        request: Request<admin::ForgetNodeRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        let node = parse("node_name", &request.get_ref().node_name)?;
        self.act(&request, OperatorAction::Forget { node }).await
    }

    async fn adopt_disk(
        &self,
        request: Request<admin::AdoptDiskRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        let message = request.get_ref();
        let adoption = Adoption {
            disk: parse("disk_uuid", &message.disk_uuid)?,
            node: parse("node_name", &message.node_name)?,
            role: role(message.role())?,
            attester: parse("attester", &message.attester)?,
            generation: Generation(message.generation),
        };
        self.act(&request, OperatorAction::Adopt(adoption)).await
    }

    async fn rebind_disk(
        &self,
        request: Request<admin::RebindDiskRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        let message = request.get_ref();
        let action = OperatorAction::Rebind {
            disk: parse("disk_uuid", &message.disk_uuid)?,
            attester: parse("attester", &message.attester)?,
        };
        self.act(&request, action).await
    }

    async fn accept_generation(
        &self,
        request: Request<admin::AcceptGenerationRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        let message = request.get_ref();
        let action = OperatorAction::AcceptGeneration {
            disk: parse("disk_uuid", &message.disk_uuid)?,
            generation: Generation(message.generation),
        };
        self.act(&request, action).await
    }

    async fn open_control_plane(
        &self,
        request: Request<admin::OpenControlPlaneRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        let node = parse("node_name", &request.get_ref().node_name)?;
        let action = OperatorAction::OpenControlPlane { node };
        self.act(&request, action).await
    }

    async fn record_boot(
        &self,
        request: Request<admin::RecordBootRequest>,
    ) -> Result<Response<admin::Done>, Status> {
        let boot = request.get_ref().boot.as_ref();
        let boot = boot.ok_or_else(|| AdminError::Malformed {
            field: "boot",
            reason: "missing".into(),
        })?;
        let action = OperatorAction::RecordBoot(boot_claim(boot)?);
        self.act(&request, action).await
    }

    async fn backup(
        &self,
        request: Request<admin::BackupRequest>,
    ) -> Result<Response<Chunks>, Status> {
        let mut event = RecordEvent::new(Action::OperatorAction, Outcome::Done, "backup");
        event.path = Some(Text::from_display(operator(&request)?));
        self.audit.record(event).await.map_err(AdminError::Audit)?;
        let store = self.store.clone();
        let bytes = tokio::task::spawn_blocking(move || store.backup())
            .await
            .map_err(|_| AdminError::Store(StoreError::Failed))?
            .map_err(AdminError::Store)?;
        let chunks: Vec<_> = bytes
            .chunks(CHUNK)
            .map(|data| {
                Ok(admin::BackupChunk {
                    data: data.to_vec(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn audit_head(
        &self,
        _: Request<admin::AuditHeadRequest>,
    ) -> Result<Response<admin::AuditHeadResponse>, Status> {
        let head = self.audit.head();
        let text =
            serde_json::to_string(&head).map_err(|_| AdminError::Store(StoreError::Failed))?;
        Ok(Response::new(admin::AuditHeadResponse {
            chain: head.chain.to_string(),
            sequence: head.seq,
            hash: head.hash.to_vec(),
            public_key: self.audit.public_key().to_vec(),
            head: text,
        }))
    }
}

fn operator<M>(request: &Request<M>) -> Result<Operator, AdminError> {
    let operator = request.extensions().get::<Operator>();
    operator.copied().ok_or(AdminError::NoOperator)
}

fn parse<T: FromStr>(field: &'static str, text: &str) -> Result<T, AdminError>
where
    T::Err: ToString,
{
    text.parse().map_err(|error: T::Err| AdminError::Malformed {
        field,
        reason: error.to_string(),
    })
}

fn role(role: admin::NodeRole) -> Result<Role, AdminError> {
    match role {
        admin::NodeRole::ControlPlane => Ok(Role::ControlPlane),
        admin::NodeRole::Worker => Ok(Role::Worker),
        admin::NodeRole::Unspecified => Err(AdminError::Malformed {
            field: "role",
            reason: "expected control-plane or worker".into(),
        }),
    }
}

fn spent_boot(claim: &BootClaim) -> admin::SpentBoot {
    admin::SpentBoot {
        boot: claim.boot.as_bytes().to_vec(),
        disk_uuid: claim.disk.to_string(),
        sealing_key: claim.sealing_key.as_bytes().to_vec(),
        committed: claim.committed.map(|generation| generation.0),
    }
}

fn boot_claim(boot: &admin::SpentBoot) -> Result<BootClaim, AdminError> {
    Ok(BootClaim {
        disk: parse("disk_uuid", &boot.disk_uuid)?,
        boot: BootId::from_bytes(hash("boot", &boot.boot)?),
        attester: AttesterIdentity::SevSnp,
        sealing_key: SealingKeyHash::from_bytes(hash("sealing_key", &boot.sealing_key)?),
        committed: boot.committed.map(Generation),
    })
}

fn hash(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], AdminError> {
    bytes.try_into().map_err(|_| AdminError::Malformed {
        field,
        reason: "expected 32 bytes".into(),
    })
}

fn node(record: NodeRecord) -> admin::Node {
    let role = match record.role {
        Role::ControlPlane => admin::NodeRole::ControlPlane,
        Role::Worker => admin::NodeRole::Worker,
    };
    let state = match record.state {
        RecordState::Issued => admin::NodeState::Issued,
        RecordState::Active => admin::NodeState::Active,
        RecordState::Tombstone(TombstoneCause::Forgotten) => admin::NodeState::Forgotten,
        RecordState::Tombstone(TombstoneCause::Superseded) => admin::NodeState::Superseded,
    };
    admin::Node {
        node_name: record.node.to_string(),
        role: role.into(),
        state: state.into(),
        disk_uuid: record.disk.to_string(),
        attester: record.attester.to_string(),
        image: record.image,
        generation: record.generation.0,
        key_version: record.key_version.0,
        created: record.created.0,
        last_seen: record.last_seen.0,
    }
}
