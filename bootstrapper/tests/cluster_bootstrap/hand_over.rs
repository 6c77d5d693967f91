//! What the agent would leave, and the certificates that the join service would have had issued.

use crate::{operator::Operator, site::Site};
use anyhow::{Context as _, Result};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use evidence::AdmissionPath;
use hand_off::{
    AdmissionMaterial, Attachments, ClusterMaterial, ControlPlaneFiles, HandOff, InitMaterial,
    JoinMaterial, KubeletMaterial, KubernetesMaterial, SecretText,
};
use identity::{ClusterId, DiskId, Generation, KeyVersion, Role};
use native_kubernetes::{IsolatedNode, kubectl};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::json;
use std::{
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

const CLUSTER: ClusterId = ClusterId::from_bytes([0x11; 32]);

impl Site {
    fn kubernetes_material(&self, certificate_authority: String) -> KubernetesMaterial {
        KubernetesMaterial {
            api_endpoint: "10.10.0.1:6443".into(),
            certificate_authority,
            pod_subnet: "10.20.0.0/16".into(),
            service_subnet: "10.96.0.0/16".into(),
            dns_domain: "cluster.local".into(),
            version: self.version().into(),
        }
    }

    /// Leaves a first node what an init leaves it.
    pub(crate) fn hand_over_init(&self, node: &IsolatedNode, operator: &Operator) -> Result<()> {
        let digits = |digits: &str| digits.repeat(32);
        let material = InitMaterial {
            version: 1,
            kubernetes: self.kubernetes_material(String::new()),
            cluster: ClusterMaterial {
                cluster_id: CLUSTER,
                key_version: KeyVersion::FIRST,
                salt: digits("22"),
                measurement_salt: digits("33"),
                master_secret: SecretText::new(digits("44")),
            },
            admission: AdmissionMaterial {
                owner: digits("55"),
                seed: SecretText::new(digits("66")),
                certificate: "{}".into(),
            },
            policy: "{}".into(),
            reference_values: "{}".into(),
            progress: operator.material(),
            attester: Some(digits("77")),
        };
        let attachments = Attachments {
            material: Some(serde_json::to_vec(&material)?.into()),
            kubelet_keys: None,
        };
        write(node, AdmissionPath::Init, &attachments)
    }

    /// Leaves a node what a recovery leaves it: no material.
    pub(crate) fn hand_over_recovery(node: &IsolatedNode) -> Result<()> {
        write(node, AdmissionPath::Recover, &Attachments::default())
    }

    /// Leaves a node what a ticket brings.
    pub(crate) fn hand_over_join(
        &self,
        first: &IsolatedNode,
        node: &IsolatedNode,
        path: &str,
    ) -> Result<()> {
        let [client, serving] = [KeyPair::generate()?, KeyPair::generate()?];
        let names = [
            SanType::DnsName(node.name().try_into()?),
            SanType::IpAddress(IpAddr::V4(node.address())),
        ];
        let material = JoinMaterial {
            version: 1,
            kubernetes: self.kubernetes_material(first.read("/etc/kubernetes/pki/ca.crt")?),
            kubelet: KubeletMaterial {
                client_certificate: issue(first, node.name(), &client, None)?,
                serving_certificate: issue(first, node.name(), &serving, Some(&names))?,
            },
            control_plane: match (role(node), path) {
                (Role::ControlPlane, "join") => Some(control_plane_files(first)?),
                _other => None,
            },
        };
        let attachments = Attachments {
            material: Some(serde_json::to_vec(&material)?.into()),
            kubelet_keys: Some([client, serving].map(|key| key.serialize_pem().into())),
        };
        let path = if path == "join" {
            AdmissionPath::Join
        } else {
            AdmissionPath::Rejoin
        };
        write(node, path, &attachments)
    }
}

fn write(node: &IsolatedNode, path: AdmissionPath, attachments: &Attachments) -> Result<()> {
    let number = node.address().octets()[3];
    let hand_off = HandOff {
        version: 1,
        path,
        cluster_id: CLUSTER,
        node_name: node.name().parse()?,
        role: role(node),
        disk_uuid: DiskId::from_random([number; 16]),
        generation: Generation::FIRST,
        state_device: "/dev/mapper/constellation-state".into(),
        attestation_key: None,
    };
    Ok(hand_off.write(&node.path(hand_off::FOLDER)?, attachments)?)
}

/// Workers are called so.
fn role(node: &IsolatedNode) -> Role {
    if node.name().starts_with("worker") {
        Role::Worker
    } else {
        Role::ControlPlane
    }
}

/// What the key service would release.
fn control_plane_files(first: &IsolatedNode) -> Result<ControlPlaneFiles> {
    let names = [
        "ca.crt",
        "ca.key",
        "etcd/ca.crt",
        "etcd/ca.key",
        "front-proxy-ca.crt",
        "front-proxy-ca.key",
        "sa.key",
        "sa.pub",
    ];
    let file = |name: &str| {
        let content = first.read(&format!("/etc/kubernetes/pki/{name}"))?;
        Ok((name.to_owned(), SecretText::new(content)))
    };
    Ok(ControlPlaneFiles(
        names.into_iter().map(file).collect::<Result<_>>()?,
    ))
}

/// A certificate by the cluster's signer for kubelets, on a request that an administrator makes.
fn issue(
    first: &IsolatedNode,
    name: &str,
    key: &KeyPair,
    names: Option<&[SanType]>,
) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{name}"));
    params.subject_alt_names = names.unwrap_or_default().to_vec();
    let request = params.serialize_request(key)?.pem()?;
    let (signer, usage) = match names {
        None => ("kubernetes.io/kube-apiserver-client-kubelet", "client auth"),
        Some(_) => ("kubernetes.io/kubelet-serving", "server auth"),
    };
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "test"},
        "spec": {
            "request": BASE64_STANDARD.encode(request), "signerName": signer,
            "usages": ["digital signature", "key encipherment", usage],
        },
    });
    let path = first.folder().join("request.json");
    fs::write(&path, object.to_string())?;
    kubectl(
        first,
        &["create", "--filename", &path.display().to_string()],
    )?;
    kubectl(first, &["certificate", "approve", "test"])?;
    let end = Instant::now() + Duration::from_secs(30);
    let certificate = loop {
        let output = "jsonpath={.status.certificate}";
        let text = kubectl(first, &["get", "csr", "test", "--output", output])?;
        if !text.is_empty() || Instant::now() > end {
            break text;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    kubectl(first, &["delete", "csr", "test"])?;
    String::from_utf8(BASE64_STANDARD.decode(certificate)?).context("a certificate in PEM")
}
