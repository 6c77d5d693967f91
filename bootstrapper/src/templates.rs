//! Configuration files of other programs: minijinja over the texts in `templates/`.
//!
//! Every value goes in as JSON, which is YAML as well, so that none can end a string or begin a key.

use crate::{config::Config, version::KubernetesVersion};
use hand_off::KubernetesMaterial;
use identity::NodeName;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

/// What templates are filled with.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The cluster.
    pub kubernetes: &'a KubernetesMaterial,
    /// This node's name.
    pub node_name: &'a NodeName,
    /// This node's address.
    pub address: IpAddr,
    /// The version of the programs.
    pub version: KubernetesVersion,
}

/// A template that cannot be filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The range of Services holds no address for the cluster's DNS.
    #[error("`{0}` is no range of IPv4 addresses with at least 16 of them")]
    ServiceSubnet(String),
    /// The template is wrong, or asks for what is not there.
    #[error("fill the template `{name}`")]
    Template {
        /// Which.
        name: &'static str,
        /// Why.
        source: minijinja::Error,
    },
}

impl Subject<'_> {
    /// The kubelet's configuration file.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn kubelet_configuration(&self) -> Result<String, TemplateError> {
        fill(
            "kubelet.yaml",
            include_str!("../templates/kubelet.yaml"),
            &context! {
                kubelet => value(&self.config.kubelet),
                kubernetes => value(self.kubernetes),
                cluster_dns => cluster_dns(&self.kubernetes.service_subnet)?,
                minor => self.version.minor,
                runtime_endpoint => self.runtime_endpoint(),
            },
        )
    }

    /// The kubelet's kubeconfig.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn kubelet_kubeconfig(&self) -> Result<String, TemplateError> {
        fill(
            "kubelet.conf",
            include_str!("../templates/kubelet.conf"),
            &context! { server => self.server() },
        )
    }

    /// The kubeconfig without credentials that `kubeadm join` looks for in the cluster.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn cluster_info(&self, authority_base64: &str) -> Result<String, TemplateError> {
        fill(
            "cluster-info.conf",
            include_str!("../templates/cluster-info.conf"),
            &context! { server => self.server(), authority => authority_base64 },
        )
    }

    /// kubeadm's configuration: of an init, or of another control-plane node's join.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn kubeadm(&self, join: bool) -> Result<String, TemplateError> {
        let config = self.config;
        let api = self.version.kubeadm_api();
        let socket = if self.version.minor < 24 {
            config.runtime_socket.display().to_string()
        } else {
            self.runtime_endpoint()
        };
        let lease = config.limits.leader_lease_seconds.arguments();
        let with_lease = |fixed: &'static [(&str, &str)]| {
            let lease = lease.iter().map(|(name, value)| (*name, value.as_str()));
            fixed.iter().copied().chain(lease).collect::<Vec<_>>()
        };
        fill(
            "kubeadm.yaml",
            include_str!("../templates/kubeadm.yaml"),
            &context! {
                api,
                join,
                address => self.address.to_string(),
                port => config.api_server_port,
                node_name => self.node_name.as_str(),
                runtime_socket => socket,
                kubernetes => value(self.kubernetes),
                image_repository => config.cluster.image_repository.clone(),
                control_plane_seconds => config.limits.control_plane_seconds.duration().as_secs(),
                api_server => arguments(api, API_SERVER),
                controller_manager => arguments(api, &with_lease(CONTROLLER_MANAGER)),
                scheduler => arguments(api, &with_lease(SCHEDULER)),
                kubelet_configuration => self.kubelet_configuration()?,
                kube_proxy_sets_conntrack => config.cluster.kube_proxy_sets_conntrack,
            },
        )
    }

    /// The socket of the container runtime, as a URL.
    #[must_use]
    pub fn runtime_endpoint(&self) -> String {
        format!("unix://{}", self.config.runtime_socket.display())
    }

    fn server(&self) -> String {
        format!("https://{}", self.kubernetes.api_endpoint)
    }
}

/// The network configuration of pods on a node with this range.
///
/// # Errors
/// [`TemplateError`].
pub fn pod_network(pod_cidr: &str) -> Result<String, TemplateError> {
    fill(
        "network.conflist",
        include_str!("../templates/network.conflist"),
        &context! { pod_cidr },
    )
}

/// What the API server records.
pub const AUDIT_POLICY: &str = include_str!("../templates/audit-policy.yaml");

/// The API server's arguments beside those that kubeadm gives it.
///
/// Anonymous requests stay possible: kubeadm's static pod is probed without credentials, and RBAC lets
/// the anonymous read health and version alone.
const API_SERVER: &[(&str, &str)] = &[
    ("audit-log-maxage", "30"),
    ("audit-log-maxbackup", "10"),
    ("audit-log-maxsize", "50"),
    ("audit-log-path", "/var/log/kubernetes/audit.log"),
    ("audit-policy-file", "/etc/kubernetes/audit-policy.yaml"),
    ("enable-admission-plugins", "NodeRestriction"),
    // There is no bootstrap token, so nothing should accept one.
    ("enable-bootstrap-token-auth", "false"),
    // Kubelets serve with certificates of the cluster's CA, so the API server need not believe just any.
    (
        "kubelet-certificate-authority",
        "/etc/kubernetes/pki/ca.crt",
    ),
    ("profiling", "false"),
    ("tls-min-version", "VersionTLS13"),
];

/// The controllers that are on by default: kubeadm adds those for bootstrap tokens.
const CONTROLLER_MANAGER: &[(&str, &str)] = &[
    // 90 days: workers' kubelets renew client certificates themselves, serving ones come with a boot alone
    // (docs/bootstrapper.md).
    ("cluster-signing-duration", "2160h"),
    ("controllers", "*"),
    ("profiling", "false"),
];

const SCHEDULER: &[(&str, &str)] = &[("profiling", "false")];

/// A map, or from `v1beta4` on a list of pairs.
fn arguments(api: &str, pairs: &[(&str, &str)]) -> minijinja::Value {
    if api == "v1beta4" {
        let pair = |(name, value): &(&str, &str)| context! { name => *name, value => *value };
        pairs.iter().map(pair).collect::<Vec<_>>().into()
    } else {
        value(&pairs.iter().copied().collect::<BTreeMap<_, _>>())
    }
}

/// The tenth address of the range of Services, where kubeadm puts the DNS.
fn cluster_dns(service_subnet: &str) -> Result<String, TemplateError> {
    let address = || {
        let (base, bits) = service_subnet.split_once('/')?;
        let (base, bits): (Ipv4Addr, u32) = (base.parse().ok()?, bits.parse().ok()?);
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
        (bits <= 28).then(|| Ipv4Addr::from((u32::from(base) & mask) + 10).to_string())
    };
    address().ok_or_else(|| TemplateError::ServiceSubnet(service_subnet.to_owned()))
}

fn value(of: &impl Serialize) -> minijinja::Value {
    minijinja::value::Serde(of).into()
}

fn fill(
    name: &'static str,
    template: &str,
    values: &minijinja::Value,
) -> Result<String, TemplateError> {
    let failed = |source| TemplateError::Template { name, source };
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_filter("tojson", minijinja::filters::tojson);
    environment
        .render_str(template, values.clone())
        .map_err(failed)
}

#[cfg(test)]
mod tests;
