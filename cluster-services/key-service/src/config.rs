//! The configuration file; docs/operate-services.md documents every key.

use crate::callers::ClassName;
use identity::KeyVersion;
use key_hierarchy::KeySalt;
use serde::Deserialize;
use service_runtime::{
    audit_log::AuditConfig,
    config::{LogFormat, Replica, Seconds, count},
    mtls::{PeerName, TlsFiles},
    program::ServiceConfig,
    secrets::SecretSource,
};
use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

/// The configuration of the key service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where callers connect.
    pub listen: SocketAddr,
    /// Where probes and metrics are served.
    pub admin_listen: SocketAddr,
    /// How to log.
    #[serde(default)]
    pub log: LogFormat,
    /// How long a shutdown waits for the work in flight.
    pub drain_seconds: Seconds,
    /// What this replica calls itself in the audit log.
    pub replica: Replica,
    /// Standalone: certificate, key, and the CA of the callers.
    pub tls: Option<TlsFiles>,
    /// Standalone: the key-encryption keys, all versions that anything is still encrypted under.
    #[serde(default)]
    pub key: Vec<KeyConfig>,
    /// In a cluster, which has all of that: this section instead of `tls` and `key`.
    pub cluster: Option<ClusterConfig>,
    /// Who may ask for what.
    pub caller: Vec<CallerConfig>,
    /// How much one caller may ask for.
    #[serde(default)]
    pub limits: LimitConfig,
    /// The audit log.
    pub audit: AuditConfig,
}

/// One version of the key-encryption key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Its version, from 1.
    pub version: KeyVersion,
    /// Its salt, 64 hexadecimal digits.
    #[serde(deserialize_with = "salt")]
    pub salt: KeySalt,
    /// Where the master secret is.
    pub secret: SecretSource,
}

/// One caller.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerConfig {
    /// The one name in its certificate: `dns:NAME` or `uri:NAME`.
    pub name: PeerName,
    /// The classes of keys it may ask for.
    pub classes: Vec<ClassName>,
    /// Whether it may ask for what makes a control-plane node.
    #[serde(default)]
    pub control_plane_files: bool,
}

/// A key service in a cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// The name that callers reach this service by, for its certificate.
    pub server_name: String,
    /// Folder with the keys of Secret `master-secret`, a file each.
    pub master_secret: PathBuf,
    /// What makes a control-plane node: JSON, docs/formats.md.
    pub control_plane_files: PathBuf,
    /// How long a certificate is valid; it is renewed at half of that.
    pub certificate_seconds: Seconds,
    /// How to reach the API server. Without it, with the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Whose certificates are kept fresh here.
    #[serde(default)]
    pub client: Vec<ClientConfig>,
}

/// A service that calls this one with a certificate from a Secret.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// The Secret, which must exist: `tls.crt`, `tls.key`, `ca.crt`.
    pub secret: String,
    /// The one name in the certificate, `dns:NAME` or `uri:NAME`.
    pub name: PeerName,
}

/// Limits for each caller.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitConfig {
    /// Connections at a time, from all callers.
    pub connections: NonZeroU32,
    /// Requests a second on average, from one caller.
    pub requests_per_second: NonZeroU32,
    /// Requests at once after a pause, from one caller.
    pub burst: NonZeroU32,
    /// Requests being answered at a time, for one caller.
    pub in_flight: NonZeroU32,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            connections: count(64),
            requests_per_second: count(2000),
            burst: count(4000),
            in_flight: count(512),
        }
    }
}

impl ServiceConfig for Config {
    fn log_format(&self) -> LogFormat {
        self.log
    }
}

fn salt<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<KeySalt, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut salt = [0; 32];
    hex::decode_to_slice(&text, &mut salt)
        .map_err(|_| serde::de::Error::custom("expected a salt of 64 hexadecimal digits"))?;
    Ok(KeySalt(salt))
}
