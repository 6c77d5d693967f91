//! The configuration file; docs/verify.md documents every key.

use identity::{ClusterId, NodeName};
use platform::{attester::Devices, tpm::TpmDevice};
use serde::{Deserialize, Deserializer};
use service_runtime::{
    config::{LogFormat, Seconds, count},
    program::ServiceConfig,
};
use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

/// The configuration of the verification service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where `GET /?nonce=` is answered.
    pub http_listen: SocketAddr,
    /// Where gRPC is answered.
    pub grpc_listen: SocketAddr,
    /// Where probes and metrics are served.
    pub admin_listen: SocketAddr,
    /// How to log.
    #[serde(default)]
    pub log: LogFormat,
    /// How long a shutdown waits for the work in flight.
    pub drain_seconds: Seconds,
    /// Which node this is.
    pub node: NodeConfig,
    /// What it attests with.
    #[serde(default)]
    pub devices: DeviceConfig,
    /// How much callers may ask for.
    #[serde(default)]
    pub limits: LimitConfig,
}

/// Which node this is: what the agent handed over, or both names here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// The folder of the hand-off.
    pub hand_off: Option<PathBuf>,
    /// The node's name.
    pub name: Option<NodeName>,
    /// The cluster's id.
    pub cluster_id: Option<ClusterId>,
}

/// What the node attests with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceConfig {
    /// The measured command line, which says the kind of evidence.
    pub command_line: PathBuf,
    /// The TPM: a device, or `unix:` and a socket.
    #[serde(deserialize_with = "tpm_device")]
    pub tpm: TpmDevice,
    /// The SNP firmware's device.
    pub sev_guest: PathBuf,
}

impl DeviceConfig {
    pub(crate) fn devices(&self) -> Devices {
        Devices {
            tpm: self.tpm.clone(),
            sev_guest: self.sev_guest.clone(),
        }
    }
}

impl Default for DeviceConfig {
    fn default() -> Self {
        let Devices { tpm, sev_guest } = Devices::default();
        Self {
            command_line: "/proc/cmdline".into(),
            tpm,
            sev_guest,
        }
    }
}

/// Limits; a TPM makes some five statements a second.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitConfig {
    /// Connections at a time, for each of the two protocols.
    pub connections: NonZeroU32,
    /// Connections at a time from one address (of IPv6: from one /64).
    pub connections_per_address: NonZeroU32,
    /// Statements a second on average, for one address.
    pub per_second_and_address: NonZeroU32,
    /// Statements at once after a pause, for one address.
    pub burst_per_address: NonZeroU32,
    /// Statements a second on average, for everybody.
    pub per_second: NonZeroU32,
    /// Statements that may wait for the device.
    pub queue: NonZeroU32,
    /// How long a request may take, with its time in the queue.
    pub request_seconds: Seconds,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            connections: count(128),
            connections_per_address: count(16),
            per_second_and_address: count(2),
            burst_per_address: count(20),
            per_second: count(20),
            queue: count(16),
            request_seconds: Seconds::new(count(20)),
        }
    }
}

impl ServiceConfig for Config {
    fn log_format(&self) -> LogFormat {
        self.log
    }
}

fn tpm_device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TpmDevice, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
