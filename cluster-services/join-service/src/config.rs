//! The configuration file; docs/operate-services.md documents every key.

use crate::endorse::EndorsementConfig;
use identity::{ClusterId, KeyVersion};
use owner::OwnerFingerprint;
use serde::{Deserialize, Deserializer, de::Error as _};
use service_runtime::{
    audit_log::AuditConfig,
    config::{LogFormat, Seconds, count},
    mtls::TlsFiles,
    program::ServiceConfig,
    secrets::SecretSource,
};
use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

/// The configuration of the join service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where nodes connect, with attested TLS.
    pub listen: SocketAddr,
    /// Where probes and metrics are served.
    pub admin_listen: SocketAddr,
    /// The Unix socket for the operator; only this user and root may use it.
    pub operator_socket: PathBuf,
    /// How to log.
    #[serde(default)]
    pub log: LogFormat,
    /// How long a shutdown waits for the work in flight.
    pub drain_seconds: Seconds,
    /// What this replica calls itself in the audit log.
    pub replica: String,
    /// The cluster that nodes join.
    pub cluster_id: ClusterId,
    /// The fingerprint of the owner's public key: who signs the documents below.
    #[serde(deserialize_with = "fingerprint")]
    pub owner: OwnerFingerprint,
    /// The version of the key-encryption key that new nodes get.
    pub key_version: KeyVersion,
    /// What this service proves the owner's will with.
    pub admission_key: AdmissionKeyConfig,
    /// What nodes are appraised against.
    pub documents: DocumentConfig,
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

/// The embedded store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The file. It is created when it is absent.
    pub path: PathBuf,
}

/// The key service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyServiceConfig {
    /// Its address.
    pub address: SocketAddr,
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

fn fingerprint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnerFingerprint, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(|_| D::Error::custom("expected an owner fingerprint of 64 lower-case hex digits"))
}
