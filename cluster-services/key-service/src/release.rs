//! One request: authorise, derive, record, release. In this order, with nothing in between.

use crate::{callers::Callers, config::LimitConfig};
use api::{
    Class,
    key::{
        GetControlPlaneFilesRequest, GetControlPlaneFilesResponse, GetDataKeyRequest,
        GetDataKeyResponse, key_service_server,
    },
};
use audit::{Action, Outcome, RecordEvent, Text};
use identity::KeyVersion;
use key_hierarchy::{
    DataKeyId, DeriveError, DerivedKey, KeyClass, KeyHierarchy, MalformedDataKeyId,
};
use service_runtime::{
    Chain,
    audit_log::{AuditLog, RecordError},
    limit::{Gate, RateLimit},
    mtls::PeerName,
};
use std::time::Instant;
use tonic::{Code, Request, Response, Status};

/// Answers `GetDataKey`.
#[derive(Debug)]
pub struct KeyRelease {
    keys: KeyHierarchy,
    callers: Callers,
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
    /// Refused: not a caller of such keys.
    #[error("not allowed to ask for keys of class {class}")]
    Class {
        /// The class asked for.
        class: KeyClass,
    },
    /// Internal: the derivation failed.
    #[error("cannot derive the key")]
    Derivation(#[source] DeriveError),
    /// Malformed: the id names no key.
    #[error("malformed data key id")]
    Id(#[source] MalformedDataKeyId),
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
            audit,
            rate: RateLimit::new(limits.requests_per_second, limits.burst),
            in_flight: Gate::new(usize::MAX >> 3, limits.in_flight.get() as usize),
        }
    }

    async fn answer(
        &self,
        caller: &PeerName,
        request: &GetDataKeyRequest,
    ) -> Result<DerivedKey, ReleaseError> {
        if !self.rate.admit(caller.clone(), Instant::now()) {
            return Err(ReleaseError::Rate);
        }
        let _pass = self
            .in_flight
            .enter(caller.clone())
            .ok_or(ReleaseError::Busy)?;
        let derived = self.derive(caller, request);
        let outcome = derived
            .as_ref()
            .map_or_else(ReleaseError::outcome, |_| Outcome::Done);
        let recorded = self.audit.record(event(caller, request, outcome)).await;
        match (derived, recorded) {
            (Ok(key), Ok(())) => Ok(key),
            (Ok(_unreleased), Err(error)) => Err(ReleaseError::Audit(error)),
            // A refusal that cannot be recorded is still a refusal.
            (Err(error), _) => Err(error),
        }
    }

    fn derive(
        &self,
        caller: &PeerName,
        request: &GetDataKeyRequest,
    ) -> Result<DerivedKey, ReleaseError> {
        let id: DataKeyId = request.data_key_id.parse().map_err(ReleaseError::Id)?;
        let class = id.class();
        if !self.callers.may_ask(caller, class) {
            return Err(ReleaseError::Class { class });
        }
        let length = usize::try_from(request.length).unwrap_or(usize::MAX);
        self.keys
            .derive(KeyVersion(request.key_version), &id, length)
            .map_err(|error| match error {
                DeriveError::Length { .. } | DeriveError::Version { .. } => {
                    ReleaseError::NoSuchKey(error)
                }
                _ => ReleaseError::Derivation(error),
            })
    }
}

#[tonic::async_trait]
impl key_service_server::KeyService for KeyRelease {
    async fn get_control_plane_files(
        &self,
        _: Request<GetControlPlaneFilesRequest>,
    ) -> Result<Response<GetControlPlaneFilesResponse>, Status> {
        Err(Status::permission_denied("this key service has no cluster"))
    }

    async fn get_data_key(
        &self,
        request: Request<GetDataKeyRequest>,
    ) -> Result<Response<GetDataKeyResponse>, Status> {
        let Some(caller) = request.extensions().get::<PeerName>().cloned() else {
            return Err(Status::new(Code::Unauthenticated, "no client certificate"));
        };
        let request = request.get_ref();
        match self.answer(&caller, request).await {
            Ok(key) => {
                count("released");
                tracing::info!(%caller, key = request.data_key_id, "key released");
                Ok(Response::new(GetDataKeyResponse {
                    data_key: key.expose_secret().to_vec(),
                }))
            }
            Err(error) => {
                count(error.label());
                let id = Text::new(&request.data_key_id);
                tracing::warn!(%caller, key = %id, error = %Chain(&error), "no key released");
                Err(Status::new(
                    Code::from(i32::try_from(error.class().grpc_code()).unwrap_or_default()),
                    error.to_string(),
                ))
            }
        }
    }
}

impl ReleaseError {
    /// Who is to blame, which decides whether a caller tries again.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Id(_) => Class::Malformed,
            Self::Class { .. } | Self::NoSuchKey(_) => Class::Refused,
            Self::Audit(_) | Self::Busy | Self::Rate => Class::Unavailable,
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

fn event(caller: &PeerName, request: &GetDataKeyRequest, outcome: Outcome) -> RecordEvent {
    let action = match outcome {
        Outcome::Done => Action::Release,
        _ => Action::Refusal,
    };
    let mut event = RecordEvent::new(action, outcome, "GetDataKey");
    event.path = Some(Text::new(caller.as_str()));
    event.key = Some(Text::new(&request.data_key_id));
    event.key_version = Some(KeyVersion(request.key_version));
    event
}

fn count(outcome: &'static str) {
    metrics::counter!("data_key_requests_total", "outcome" => outcome).increment(1);
}
