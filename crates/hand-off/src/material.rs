use crate::SecretText;
use identity::{ClusterId, KeyVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a node gets with a join or rejoin ticket of a join service in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinMaterial {
    /// Format version, 1.
    pub version: u32,
    /// The cluster as its nodes see it.
    pub kubernetes: KubernetesMaterial,
    /// The certificates for this node, issued on its requests.
    pub kubelet: KubeletMaterial,
    /// With every ticket of a control-plane node, of a join and of a rejoin.
    pub control_plane: Option<ControlPlaneFiles>,
}

/// What every node of a cluster has to know; nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesMaterial {
    /// Where the API server is reached, `host:port`.
    pub api_endpoint: String,
    /// The cluster's certificate authorities, PEM. Empty in init material: there is none yet.
    pub certificate_authority: String,
    /// Address range of pods, CIDR notation.
    pub pod_subnet: String,
    /// Address range of Services, CIDR notation.
    pub service_subnet: String,
    /// Domain of Services, usually `cluster.local`.
    pub dns_domain: String,
    /// Version of the control plane, `v1.20.2`.
    pub version: String,
}

/// The kubelet's certificates, PEM chains. Their private keys never left the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubeletMaterial {
    /// For `system:node:<node name>`.
    pub client_certificate: String,
    /// For the node's name, and at most the address that it dialled from.
    pub serving_certificate: String,
}

/// Files that make a control-plane node, released by the key service to a control-plane claim only.
///
/// Paths relative to `/etc/kubernetes/pki` (kubeadm's names) to PEM contents: `ca.crt`, `ca.key`,
/// `sa.key`, `sa.pub`, `front-proxy-ca.crt`, `front-proxy-ca.key`, `etcd/ca.crt`, `etcd/ca.key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ControlPlaneFiles(pub BTreeMap<String, SecretText>);

/// What the CLI gives the first node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitMaterial {
    /// Format version, 1.
    pub version: u32,
    /// The cluster to make.
    pub kubernetes: KubernetesMaterial,
    /// The cluster's keys.
    pub cluster: ClusterMaterial,
    /// What the join service will prove the owner's will with.
    pub admission: AdmissionMaterial,
    /// The policy, as the owner signed it.
    pub policy: String,
    /// The reference values, as the owner signed them.
    pub reference_values: String,
    /// How the CLI follows the run.
    pub progress: ProgressMaterial,
    /// As whom the node that gets this was attested, as `appraisal::AttesterIdentity` displays it: only who
    /// seals it knows. The node's record cannot be written without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attester: Option<String>,
}

/// The master secret and its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterMaterial {
    /// The cluster id, which the master secret and the measurement salt give.
    pub cluster_id: ClusterId,
    /// The version of the key-encryption key.
    pub key_version: KeyVersion,
    /// The salt of data keys, 64 hexadecimal digits.
    pub salt: String,
    /// The salt of the cluster id, 64 hexadecimal digits.
    pub measurement_salt: String,
    /// The master secret, 64 hexadecimal digits.
    pub master_secret: SecretText,
}

/// An admission key that the owner certified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdmissionMaterial {
    /// Fingerprint of the owner's public key, 64 hexadecimal digits.
    pub owner: String,
    /// The private key's seed, 64 hexadecimal digits.
    pub seed: SecretText,
    /// The owner's certificate for it, as `constellation owner certify` writes it.
    pub certificate: String,
}

/// Both ends of the connection on which an init is followed. They came through the attested channel
/// of the init and exist nowhere else, so they name its two ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgressMaterial {
    /// The bootstrapper's certificate, PEM.
    pub server_certificate: String,
    /// Its private key: PKCS #8, PEM.
    pub server_key: SecretText,
    /// The CLI's certificate, PEM; no other one is let in.
    pub client_certificate: String,
}
