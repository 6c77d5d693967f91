//! What everybody in a cluster knows about it, in one ConfigMap.

use crate::{CLUSTER_CONFIG_MAP, NAMESPACE};
use hand_off::KubernetesMaterial;
use identity::{ClusterId, KeyVersion};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::ObjectMeta;
use std::{collections::BTreeMap, str::FromStr};

/// The facts; nothing of them is secret. The bootstrapper of the first node writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// What nodes are told.
    pub kubernetes: KubernetesMaterial,
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// The version of the key-encryption key that new nodes get.
    pub key_version: KeyVersion,
    /// Fingerprint of the owner's public key, 64 hexadecimal digits.
    pub owner: String,
}

/// The ConfigMap does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ConfigMap {CLUSTER_CONFIG_MAP}: `{key}` is missing or malformed")]
pub struct ClusterError {
    /// The key.
    pub key: &'static str,
}

const API_ENDPOINT: &str = "api-endpoint";
const CERTIFICATE_AUTHORITY: &str = "certificate-authority";
const CLUSTER_ID: &str = "cluster-id";
const DNS_DOMAIN: &str = "dns-domain";
const KEY_VERSION: &str = "key-version";
const OWNER: &str = "owner";
const POD_SUBNET: &str = "pod-subnet";
const SERVICE_SUBNET: &str = "service-subnet";
const KUBERNETES_VERSION: &str = "version";

impl ClusterFacts {
    /// The ConfigMap to create.
    #[must_use]
    pub fn config_map(&self) -> ConfigMap {
        let kubernetes = self.kubernetes.clone();
        let data = [
            (API_ENDPOINT, kubernetes.api_endpoint),
            (CERTIFICATE_AUTHORITY, kubernetes.certificate_authority),
            (CLUSTER_ID, self.cluster_id.to_string()),
            (DNS_DOMAIN, kubernetes.dns_domain),
            (KEY_VERSION, self.key_version.0.to_string()),
            (OWNER, self.owner.clone()),
            (POD_SUBNET, kubernetes.pod_subnet),
            (SERVICE_SUBNET, kubernetes.service_subnet),
            (KUBERNETES_VERSION, kubernetes.version),
        ];
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(CLUSTER_CONFIG_MAP.into()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            },
            data: Some(data.map(|(key, text)| (key.to_owned(), text)).into()),
            ..ConfigMap::default()
        }
    }

    /// The facts in a ConfigMap.
    ///
    /// # Errors
    /// [`ClusterError`] names the key.
    pub fn parse(config_map: &ConfigMap) -> Result<Self, ClusterError> {
        let empty = BTreeMap::new();
        let data = config_map.data.as_ref().unwrap_or(&empty);
        let text = |key| {
            let text = data.get(key).filter(|text| !text.is_empty());
            text.cloned().ok_or(ClusterError { key })
        };
        Ok(Self {
            kubernetes: KubernetesMaterial {
                api_endpoint: text(API_ENDPOINT)?,
                certificate_authority: text(CERTIFICATE_AUTHORITY)?,
                pod_subnet: text(POD_SUBNET)?,
                service_subnet: text(SERVICE_SUBNET)?,
                dns_domain: text(DNS_DOMAIN)?,
                version: text(KUBERNETES_VERSION)?,
            },
            cluster_id: parse(CLUSTER_ID, &text(CLUSTER_ID)?)?,
            key_version: KeyVersion(parse(KEY_VERSION, &text(KEY_VERSION)?)?),
            owner: text(OWNER)?,
        })
    }
}

fn parse<T: FromStr>(key: &'static str, text: &str) -> Result<T, ClusterError> {
    text.parse().map_err(|_| ClusterError { key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_needed_and_comes_back() {
        let facts = ClusterFacts {
            kubernetes: KubernetesMaterial {
                api_endpoint: "10.0.0.1:6443".into(),
                certificate_authority: "pem".into(),
                pod_subnet: "10.244.0.0/16".into(),
                service_subnet: "10.96.0.0/12".into(),
                dns_domain: "cluster.local".into(),
                version: "v1.20.2".into(),
            },
            cluster_id: ClusterId::from_bytes([1; 32]),
            key_version: KeyVersion::FIRST,
            owner: "ab".into(),
        };
        let whole = facts.config_map();
        assert_eq!(ClusterFacts::parse(&whole), Ok(facts));
        let keys: Vec<_> = whole
            .data
            .iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .collect();
        assert_eq!(keys.len(), 9);
        for key in keys {
            let mut cut = whole.clone();
            cut.data.as_mut().unwrap().remove(&key);
            assert_eq!(ClusterFacts::parse(&cut).unwrap_err().key, key);
        }
    }
}
