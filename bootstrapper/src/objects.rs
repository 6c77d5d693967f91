//! Secrets and configuration of the cluster's services: what the init material brings into the cluster.

use crate::{
    clients,
    control_plane::file_names,
    error::PhaseError,
    file,
    kubelet::PKI,
    node::{Material, Node},
    rules::apply_object,
};
use hand_off::{InitMaterial, KubernetesMaterial};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Where the services live.
pub const NAMESPACE: &str = "constellation-system";

/// Applies all of it.
///
/// # Errors
/// [`PhaseError`].
pub async fn apply(node: &Node) -> Result<(), PhaseError> {
    let Material::Init(material) = &node.material else {
        return Err(PhaseError::Missing("init material"));
    };
    let client = clients::administrator().await?;
    let mut files = Map::new();
    for name in file_names() {
        let content = file::read_text(&Path::new(PKI).join(name))?;
        files.insert(name.to_owned(), content.into());
    }
    for object in objects(material, &Value::Object(files)) {
        apply_object(&client, &object).await?;
    }
    Ok(())
}

fn objects(material: &InitMaterial, control_plane_files: &Value) -> Vec<Value> {
    let InitMaterial {
        cluster, admission, ..
    } = material;
    let kubernetes = KubernetesMaterial {
        certificate_authority: control_plane_files["ca.crt"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        ..material.kubernetes.clone()
    };
    vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE},
        }),
        secret(
            "master-secret",
            &[
                ("cluster-id", &cluster.cluster_id.to_string()),
                ("key-version", &cluster.key_version.to_string()),
                ("measurement-salt", &cluster.measurement_salt),
                ("salt", &cluster.salt),
                ("secret", cluster.master_secret.expose_secret()),
            ],
        ),
        secret(
            "control-plane-files",
            &[("files.json", &control_plane_files.to_string())],
        ),
        secret(
            "join-service-admission",
            &[
                ("certificate", &admission.certificate),
                ("seed", admission.seed.expose_secret()),
            ],
        ),
        config_map("constellation-policy", &[("policy.json", &material.policy)]),
        config_map(
            "constellation-reference-values",
            &[("reference-values.json", &material.reference_values)],
        ),
        config_map(
            "constellation-cluster",
            &[
                ("api_endpoint", &kubernetes.api_endpoint),
                ("certificate_authority", &kubernetes.certificate_authority),
                ("cluster-id", &cluster.cluster_id.to_string()),
                ("dns_domain", &kubernetes.dns_domain),
                ("key-version", &cluster.key_version.to_string()),
                ("owner", &admission.owner),
                ("pod_subnet", &kubernetes.pod_subnet),
                ("service_subnet", &kubernetes.service_subnet),
                ("version", &kubernetes.version),
            ],
        ),
    ]
}

fn secret(name: &str, entries: &[(&str, &str)]) -> Value {
    let entries = entries.iter().map(|(key, value)| {
        let value = k8s_openapi::ByteString(value.as_bytes().to_vec());
        ((*key).to_owned(), json!(value))
    });
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": entries.collect::<Map<_, _>>(),
    })
}

fn config_map(name: &str, entries: &[(&str, &str)]) -> Value {
    let entries = entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": entries.collect::<Map<_, _>>(),
    })
}

#[cfg(test)]
mod tests;
