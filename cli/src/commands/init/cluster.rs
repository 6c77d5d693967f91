//! What the operator says about the cluster to be made, checked before anything is.

use anyhow::{Result, anyhow};
use clap::Args;
use hand_off::KubernetesMaterial;
use identity::NodeName;
use std::net::IpAddr;

use super::state::Plan;
use crate::output::WithHint as _;

/// Domain of Services. Kubernetes' own default, which much software takes for granted.
const DNS_DOMAIN: &str = "cluster.local";

/// The cluster to be made.
#[derive(Args, Debug)]
pub(super) struct ClusterArgs {
    /// The node's name
    #[arg(long, value_name = "NAME")]
    pub(super) node_name: NodeName,
    /// Where the API server will be reached, also by later nodes
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_endpoint)]
    endpoint: String,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16", value_parser = parse_subnet)]
    pod_subnet: String,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/12", value_parser = parse_subnet)]
    service_subnet: String,
    /// Version of Kubernetes; the image must have it
    #[arg(long, value_name = "VERSION", default_value = "v1.20.2", value_parser = parse_version)]
    kubernetes_version: String,
}

impl ClusterArgs {
    /// What a later run must ask for, too.
    pub(super) fn plan(&self) -> Result<Plan> {
        if overlap(&self.pod_subnet, &self.service_subnet) {
            let (pods, services) = (&self.pod_subnet, &self.service_subnet);
            return Err(anyhow!("`{pods}` and `{services}` overlap")).hint(
                "pods and Services need addresses of their own: `--pod-subnet`, `--service-subnet`",
            );
        }
        Ok(Plan {
            node_name: self.node_name.clone(),
            kubernetes: KubernetesMaterial {
                api_endpoint: self.endpoint.clone(),
                certificate_authority: String::new(),
                pod_subnet: self.pod_subnet.clone(),
                service_subnet: self.service_subnet.clone(),
                dns_domain: DNS_DOMAIN.to_owned(),
                version: self.kubernetes_version.clone(),
            },
        })
    }
}

/// `host:port` of the API server.
fn parse_endpoint(text: &str) -> std::result::Result<String, String> {
    let expected = || "expected `HOST:PORT` or `[IPv6]:PORT`".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 = port.parse().map_err(|_| expected())?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
            !host.is_empty() && host.len() <= 253 && host.chars().all(allowed)
        }
    };
    (port != 0 && is_host)
        .then(|| text.to_owned())
        .ok_or_else(expected)
}

/// A range of addresses.
fn parse_subnet(text: &str) -> std::result::Result<String, String> {
    let expected = || "expected a range of addresses such as `10.96.0.0/12`".to_owned();
    let (bits, length, width) = subnet(text).ok_or_else(expected)?;
    let host_bits = bits.checked_shl(length).unwrap_or(0);
    (0 < length && length <= width && host_bits == 0)
        .then(|| text.to_owned())
        .ok_or_else(expected)
}

/// The address from its first bit on, the prefix's length, and the address's.
fn subnet(text: &str) -> Option<(u128, u32, u32)> {
    let (address, length) = text.split_once('/')?;
    let length = length.parse().ok()?;
    Some(match address.parse().ok()? {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, length, 32),
        IpAddr::V6(address) => (address.to_bits(), length, 128),
    })
}

/// Whether two ranges of addresses have any in common.
fn overlap(one: &str, other: &str) -> bool {
    let (Some(one), Some(other)) = (subnet(one), subnet(other)) else {
        return false;
    };
    let shorter = one.1.min(other.1);
    one.2 == other.2 && (one.0 ^ other.0).leading_zeros() >= shorter
}

/// `v1.20.2`.
fn parse_version(text: &str) -> std::result::Result<String, String> {
    let numbers: Vec<_> = text.strip_prefix('v').unwrap_or("").split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (numbers.len() == 3 && numbers.iter().all(is_number))
        .then(|| text.to_owned())
        .ok_or_else(|| "expected a version such as `v1.20.2`".to_owned())
}

#[cfg(test)]
mod tests;
