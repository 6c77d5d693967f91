//! One request: authorise, derive, record, release. In this order, with nothing in between.

use crate::{
    callers::Callers,
    cluster::{ClaimError, ClusterGate, FilesError},
    config::LimitConfig,
};
use admission::NodeRecord;
use api::{
    Class,
    key::{
        GetControlPlaneFilesRequest, GetControlPlaneFilesResponse, GetDataKeyRequest,
        GetDataKeyResponse, key_service_server,
    },
};
use audit::{Action, Check, Outcome, RecordEvent, Text};
use identity::{DiskId, KeyVersion, MalformedName};
use key_hierarchy::{
    DataKeyId, DeriveError, DerivedKey, KeyClass, KeyHierarchy, MalformedDataKeyId,
};
use service_runtime::{
    Chain,
    audit_log::{AuditLog, RecordError},
    limit::{Gate, Pass, RateLimit},
    mtls::PeerName,
};
use std::time::Instant;
use tonic::{Code, Request, Response, Status};
use zeroize::Zeroizing;

/// Answers `GetDataKey` and `GetControlPlaneFiles`.
#[derive(Debug)]
pub struct KeyRelease {
    keys: KeyHierarchy,
    callers: Callers,
    /// In a cluster: what it says about disks.
    cluster: Option<ClusterGate>,
    audit: AuditLog,
    rate: RateLimit<PeerName>,
    in_flight: Gate<PeerName>,
}

/// Why no key was released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Unavailable: the release cannot be recorded.
    #[error("the release cannot be recorded")]
    Audit(#[source] RecordError),
    /// Unavailable: too many requests of this caller are being answered.
    #[error("too many requests in flight")]
    Busy,
    /// The cluster does not say that the disk may have it, or says nothing: see the source.
    #[error("the cluster does not vouch for the disk")]
    Claim(#[source] ClaimError),
    /// Refused: not a caller of such keys.
    #[error("not allowed to ask for keys of class {class}")]
    Class {
        /// The class asked for.
        class: KeyClass,
    },
    /// Internal: the derivation failed.
    #[error("cannot derive the key")]
    Derivation(#[source] DeriveError),
    /// Malformed: the id names no disk.
    #[error("malformed disk id")]
    Disk(#[source] MalformedName),
    /// Unavailable: there are no control-plane files to release.
    #[error("cannot load the control-plane files")]
    Files(#[source] FilesError),
    /// Refused: not a caller for control-plane files.
    #[error("not allowed to ask for control-plane files")]
    FilesNotAllowed,
    /// Malformed: the id names no key.
    #[error("malformed data key id")]
    Id(#[source] MalformedDataKeyId),
    /// Refused: a service of its own has no control plane.
    #[error("this key service has no cluster")]
    NoCluster,
    /// Refused: no such length or version.
    #[error("no such key")]
    NoSuchKey(#[source] DeriveError),
    /// Unavailable: too many requests a second.
    #[error("too many requests")]
    Rate,
}

impl KeyRelease {
    /// A service with these keys, for these callers.
    #[must_use]
    pub fn new(keys: KeyHierarchy, callers: Callers, limits: LimitConfig, audit: AuditLog) -> Self {
        Self {
            keys,
            callers,
            cluster: None,
            audit,
            rate: RateLimit::new(limits.requests_per_second, limits.burst),
            in_flight: Gate::new(usize::MAX >> 3, limits.in_flight.get() as usize),
        }
    }

    /// The same in a cluster, which must vouch for each disk.
    #[must_use]
    pub(crate) fn in_cluster(mut self, cluster: ClusterGate) -> Self {
        self.cluster = Some(cluster);
        self
    }

    async fn data_key(
        &self,
        caller: &PeerName,
        request: &GetDataKeyRequest,
    ) -> Result<DerivedKey, ReleaseError> {
        let _pass = self.enter(caller)?;
        let derived = match self.authorise(caller, request).await {
            Ok(id) => self.derive(&id, request),
            Err(error) => Err(error),
        };
        let mut event = event("GetDataKey", caller, &derived);
        event.key = Some(Text::new(&request.data_key_id));
        event.key_version = Some(KeyVersion(request.key_version));
        self.recorded(derived, event).await
    }

    async fn control_plane_files(
        &self,
        caller: &PeerName,
        request: &GetControlPlaneFilesRequest,
    ) -> Result<Zeroizing<Vec<u8>>, ReleaseError> {
        let _pass = self.enter(caller)?;
        let loaded = self.load_files(caller, request).await;
        let mut event = event("GetControlPlaneFiles", caller, &loaded);
        // What is no disk id is in the log, not here.
        event.disk = request.disk_uuid.parse().ok();
        if let Ok((record, _)) = &loaded {
            event.node = Some(record.node.clone());
            event.role = Some(record.role);
        }
        let (_, files) = self.recorded(loaded, event).await?;
        Ok(files)
    }

    /// Limits first: what they refuse is not worth a record.
    fn enter(&self, caller: &PeerName) -> Result<Pass<PeerName>, ReleaseError> {
        if !self.rate.admit(caller.clone(), Instant::now()) {
            return Err(ReleaseError::Rate);
        }
        self.in_flight
            .enter(caller.clone())
            .ok_or(ReleaseError::Busy)
    }

    /// Gives out what was found once the record of it is durable.
    async fn recorded<T>(
        &self,
        found: Result<T, ReleaseError>,
        event: RecordEvent,
    ) -> Result<T, ReleaseError> {
        let recorded = self.audit.record(event).await;
        match (found, recorded) {
            (Ok(secret), Ok(())) => Ok(secret),
            (Ok(_unreleased), Err(error)) => Err(ReleaseError::Audit(error)),
            // A refusal that cannot be recorded is still a refusal.
            (Err(error), _) => Err(error),
        }
    }

    async fn authorise(
        &self,
        caller: &PeerName,
        request: &GetDataKeyRequest,
    ) -> Result<DataKeyId, ReleaseError> {
        let id: DataKeyId = request.data_key_id.parse().map_err(ReleaseError::Id)?;
        let class = id.class();
        if !self.callers.may_ask(caller, class) {
            return Err(ReleaseError::Class { class });
        }
        if let (Some(cluster), DataKeyId::StateDisk(disk)) = (&self.cluster, &id) {
            let record = cluster.claims.check_disk(*disk).await;
            record.map_err(ReleaseError::Claim)?;
        }
        Ok(id)
    }

    fn derive(
        &self,
        id: &DataKeyId,
        request: &GetDataKeyRequest,
    ) -> Result<DerivedKey, ReleaseError> {
        let length = usize::try_from(request.length).unwrap_or(usize::MAX);
        self.keys
            .derive(KeyVersion(request.key_version), id, length)
            .map_err(|error| match error {
                DeriveError::Length { .. } | DeriveError::Version { .. } => {
                    ReleaseError::NoSuchKey(error)
                }
                _ => ReleaseError::Derivation(error),
            })
    }

    async fn load_files(
        &self,
        caller: &PeerName,
        request: &GetControlPlaneFilesRequest,
    ) -> Result<(NodeRecord, Zeroizing<Vec<u8>>), ReleaseError> {
        let disk: DiskId = request.disk_uuid.parse().map_err(ReleaseError::Disk)?;
        if !self.callers.may_ask_for_files(caller) {
            return Err(ReleaseError::FilesNotAllowed);
        }
        let cluster = self.cluster.as_ref().ok_or(ReleaseError::NoCluster)?;
        let record = cluster
            .claims
            .check_control_plane(disk)
            .await
            .map_err(ReleaseError::Claim)?;
        let files = cluster.files.read().map_err(ReleaseError::Files)?;
        Ok((record, files))
    }
}

#[tonic::async_trait]
impl key_service_server::KeyService for KeyRelease {
    async fn get_control_plane_files(
        &self,
        request: Request<GetControlPlaneFilesRequest>,
    ) -> Result<Response<GetControlPlaneFilesResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.get_ref();
        let answer = self.control_plane_files(&caller, request).await;
        let what = Text::new(&request.disk_uuid);
        let files = settled("control_plane_files_requests_total", &caller, &what, answer)?;
        Ok(Response::new(GetControlPlaneFilesResponse {
            files: files.to_vec(),
        }))
    }

    async fn get_data_key(
        &self,
        request: Request<GetDataKeyRequest>,
    ) -> Result<Response<GetDataKeyResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.get_ref();
        let answer = self.data_key(&caller, request).await;
        let what = Text::new(&request.data_key_id);
        let key = settled("data_key_requests_total", &caller, &what, answer)?;
        Ok(Response::new(GetDataKeyResponse {
            data_key: key.expose_secret().to_vec(),
        }))
    }
}

fn caller<T>(request: &Request<T>) -> Result<PeerName, Status> {
    let caller = request.extensions().get::<PeerName>().cloned();
    caller.ok_or_else(|| Status::new(Code::Unauthenticated, "no client certificate"))
}

/// Counts and logs the answer. The caller learns the class and the first sentence.
fn settled<T>(
    counter: &'static str,
    caller: &PeerName,
    what: &Text,
    answer: Result<T, ReleaseError>,
) -> Result<T, Status> {
    let outcome = answer
        .as_ref()
        .map_or_else(ReleaseError::label, |_| "released");
    metrics::counter!(counter, "outcome" => outcome).increment(1);
    match answer {
        Ok(secret) => {
            tracing::info!(%caller, key = %what, "released");
            Ok(secret)
        }
        Err(error) => {
            tracing::warn!(%caller, key = %what, error = %Chain(&error), "not released");
            Err(Status::new(
                Code::from(i32::try_from(error.class().grpc_code()).unwrap_or_default()),
                error.to_string(),
            ))
        }
    }
}

impl ReleaseError {
    /// Who is to blame, which decides whether a caller tries again.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Claim(error) if error.is_unavailable() => Class::Unavailable,
            Self::Claim(error) if error.is_internal() => Class::Internal,
            Self::Disk(_) | Self::Id(_) => Class::Malformed,
            Self::Claim(_)
            | Self::Class { .. }
            | Self::FilesNotAllowed
            | Self::NoCluster
            | Self::NoSuchKey(_) => Class::Refused,
            Self::Audit(_) | Self::Busy | Self::Files(_) | Self::Rate => Class::Unavailable,
            Self::Derivation(_) => Class::Internal,
        }
    }

    const fn outcome(&self) -> Outcome {
        match self.class() {
            Class::Internal => Outcome::Internal,
            Class::Malformed => Outcome::Malformed,
            Class::Refused => Outcome::Refused,
            Class::Unavailable => Outcome::Unavailable,
        }
    }

    const fn label(&self) -> &'static str {
        match self.class() {
            Class::Internal => "internal",
            Class::Malformed => "malformed",
            Class::Refused => "refused",
            Class::Unavailable => "unavailable",
        }
    }
}

fn event<T>(call: &'static str, caller: &PeerName, found: &Result<T, ReleaseError>) -> RecordEvent {
    let mut event = match found {
        Ok(_) => RecordEvent::new(Action::Release, Outcome::Done, call),
        Err(error) => {
            let mut event = RecordEvent::new(Action::Refusal, error.outcome(), call);
            if let ReleaseError::Claim(claim) = error {
                event
                    .checks
                    .push(Check::new("claim", "a claim on it", claim));
            }
            event
        }
    };
    event.path = Some(Text::new(caller.as_str()));
    event
}
