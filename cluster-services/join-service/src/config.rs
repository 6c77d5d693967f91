//! The configuration file; docs/operate-services.md documents every key.

use crate::endorse::EndorsementConfig;
use identity::{ClusterId, KeyVersion};
use owner::OwnerFingerprint;
use serde::{Deserialize, Deserializer, de::Error as _};
use service_runtime::{
    audit_log::AuditConfig,
    config::{LogFormat, Replica, Seconds, count},
    mtls::TlsFiles,
    program::ServiceConfig,
    secrets::SecretSource,
};
use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

/// The configuration of the join service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where nodes connect, with attested TLS.
    pub listen: SocketAddr,
    /// Where probes and metrics are served.
    pub admin_listen: SocketAddr,
    /// The Unix socket for the operator; only this user and root may use it. Standalone only.
    #[serde(default)]
    pub operator_socket: Option<PathBuf>,
    /// How to log.
    #[serde(default)]
    pub log: LogFormat,
    /// How long a shutdown waits for the work in flight.
    pub drain_seconds: Seconds,
    /// What this replica calls itself in the audit log.
    pub replica: Replica,
    /// The cluster that nodes join. Standalone only: a cluster says so itself.
    #[serde(default)]
    pub cluster_id: Option<ClusterId>,
    /// The fingerprint of the owner's public key: who signs the documents below. Standalone only.
    #[serde(default, deserialize_with = "fingerprint")]
    pub owner: Option<OwnerFingerprint>,
    /// The version of the key-encryption key that new nodes get. Standalone only.
    #[serde(default)]
    pub key_version: Option<KeyVersion>,
    /// What this service proves the owner's will with.
    pub admission_key: AdmissionKeyConfig,
    /// What nodes are appraised against. Standalone only: a cluster has them in ConfigMaps.
    #[serde(default)]
    pub documents: Option<DocumentConfig>,
    /// Certificates of the keys that sign SEV-SNP reports; absent: only what nodes bring themselves.
    #[serde(default)]
    pub endorsements: Option<EndorsementConfig>,
    /// Where the records are.
    pub store: StoreConfig,
    /// Where keys come from.
    pub key_service: KeyServiceConfig,
    /// How much one node, and all of them, may ask for.
    #[serde(default)]
    pub limits: LimitConfig,
    /// The audit log.
    pub audit: AuditConfig,
}

/// The admission key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionKeyConfig {
    /// The private half.
    pub secret: SecretSource,
    /// The owner's certificate for it.
    pub certificate: PathBuf,
}

/// The documents that the owner signed; reloaded when a file changes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentConfig {
    /// The appraisal policy.
    pub policy: PathBuf,
    /// The reference values of the images.
    pub reference_values: PathBuf,
}

/// Where the records are, and with that what the service is: alone, or part of a cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StoreConfig {
    /// Alone, with a store of its own.
    File {
        /// The file. It is created when it is absent.
        path: PathBuf,
    },
    /// Part of a cluster, which has all of it.
    Kubernetes {
        /// Who to be to the API server; absent: the pod's ServiceAccount.
        #[serde(default)]
        kubeconfig: Option<PathBuf>,
    },
}

/// What the store says that the service is.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// Part of a cluster, which says the rest.
    Cluster {
        /// Who to be, if not the pod's ServiceAccount.
        kubeconfig: Option<&'a Path>,
    },
    /// Alone.
    Standalone(Standalone<'a>),
}

/// What a service is told that is alone.
#[derive(Debug, Clone, Copy)]
pub struct Standalone<'a> {
    /// Whom it serves.
    pub serves: Serves,
    /// The store's file.
    pub store: &'a Path,
    /// The documents' files.
    pub documents: &'a DocumentConfig,
    /// The operator's socket.
    pub operator_socket: &'a Path,
}

/// Whom the service serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serves {
    /// The cluster that nodes join.
    pub cluster: ClusterId,
    /// The owner.
    pub owner: OwnerFingerprint,
    /// The version of the key-encryption key that new nodes get.
    pub key_version: KeyVersion,
}

/// A key is missing that the kind of store needs, or there that it has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a store of kind `file` needs `cluster_id`, `owner`, `key_version`, `documents` and `operator_socket`, one of kind `kubernetes` has none of them"
)]
pub struct ModeError;

impl Config {
    /// What the service is.
    ///
    /// # Errors
    /// [`ModeError`]; nothing is guessed.
    pub fn mode(&self) -> Result<Mode<'_>, ModeError> {
        let told = (
            self.cluster_id,
            self.owner,
            self.key_version,
            &self.documents,
            &self.operator_socket,
        );
        match (&self.store, told) {
            (
                StoreConfig::File { path },
                (Some(cluster), Some(owner), Some(key_version), Some(documents), Some(socket)),
            ) => Ok(Mode::Standalone(Standalone {
                serves: Serves {
                    cluster,
                    owner,
                    key_version,
                },
                store: path,
                documents,
                operator_socket: socket,
            })),
            (StoreConfig::Kubernetes { kubeconfig }, (None, None, None, None, None)) => {
                Ok(Mode::Cluster {
                    kubeconfig: kubeconfig.as_deref(),
                })
            }
            _ => Err(ModeError),
        }
    }
}

/// The key service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyServiceConfig {
    /// Its address and port; a name is resolved for each new connection.
    pub address: String,
    /// The name that its certificate must have.
    pub server_name: String,
    /// How long to wait for one key.
    pub timeout_seconds: Seconds,
    /// Our certificate and key, and the CA of the key service.
    pub tls: TlsFiles,
}

/// Limits that hold before anything expensive is done for a peer.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitConfig {
    /// Connections at a time, from everybody.
    pub connections: NonZeroU32,
    /// Connections at a time from one address (of IPv6: from one /64).
    pub connections_per_address: NonZeroU32,
    /// Handshakes at a time, from everybody.
    pub handshakes: NonZeroU32,
    /// Handshakes a second from one address, on average.
    pub handshakes_per_second: NonZeroU32,
    /// Handshakes at once from one address after a pause.
    pub handshake_burst: NonZeroU32,
    /// Appraisals at a time. 0: one for each processor.
    pub appraisals: usize,
    /// How long a handshake may take in all.
    pub handshake_seconds: Seconds,
    /// How long an idle connection is kept.
    pub idle_seconds: Seconds,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            connections: count(2048),
            connections_per_address: count(64),
            handshakes: count(256),
            handshakes_per_second: count(20),
            handshake_burst: count(60),
            appraisals: 0,
            handshake_seconds: Seconds::new(count(15)),
            idle_seconds: Seconds::new(count(120)),
        }
    }
}

impl ServiceConfig for Config {
    fn log_format(&self) -> LogFormat {
        self.log
    }
}

fn fingerprint<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OwnerFingerprint>, D::Error> {
    let owner = String::deserialize(deserializer)?.parse();
    owner
        .map(Some)
        .map_err(|_| D::Error::custom("expected an owner fingerprint of 64 lower-case hex digits"))
}
