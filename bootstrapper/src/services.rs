//! The cluster's services: join service, key service, verification service, and the record of the
//! node that they begin on.

use crate::{
    clients, control_plane,
    error::PhaseError,
    file::{self, FileError},
    kubelet::PKI,
    node::{Material, Node},
    program::until,
};
use admission::{Adoption, Context, NodeRecord, OperatorAction, RecordState, Timestamp, operate};
use appraisal::AttesterIdentity;
use hand_off::{ControlPlaneFiles, InitMaterial, KubernetesMaterial, SecretText};
use identity::Role;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube_store::{KubeStore, NAMESPACE};
use manifests::{Attestation, Cluster, Object, Values};
use serde_json::json;
use std::{
    collections::BTreeMap,
    os::unix::fs::chown,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The record of the first node, below the state folder, for the CLI.
pub const NODE_RECORD: &str = "constellation/node-record.json";

/// How often the services are looked at.
const POLL: Duration = Duration::from_millis(500);

/// Makes the folders on the state disk that the services' pods write to.
///
/// # Errors
/// [`PhaseError`].
pub fn folders(node: &Node) -> Result<(), PhaseError> {
    for folder in values(node, None).host_folders() {
        if !folder.every_node && !node.is_control_plane() {
            continue;
        }
        let path = Path::new(&folder.path);
        if let Some(parent) = path.parent() {
            // The pods' users pass through it; what is beside has its own mode.
            file::make_folder(parent, 0o711)?;
        }
        file::make_folder(path, 0o700)?;
        chown(path, Some(folder.user), Some(folder.user)).map_err(FileError::new("give", path))?;
    }
    Ok(())
}

/// Deploys them from the published manifests, with what the init material brings into the cluster.
///
/// # Errors
/// [`PhaseError`].
pub async fn deploy(node: &Node) -> Result<(), PhaseError> {
    let cluster = cluster(material(node)?)?;
    let values = values(node, Some(cluster));
    let objects = manifests::render(&values).map_err(|error| PhaseError::Render(error.into()))?;
    drop(values);
    apply(node, &objects).await
}

/// Makes the place for records, before anything runs that would read it.
///
/// # Errors
/// [`PhaseError`].
pub async fn record_store(node: &Node) -> Result<(), PhaseError> {
    let objects = manifests::render(&values(node, None));
    let mut objects = objects.map_err(|error| PhaseError::Render(error.into()))?;
    objects.retain(holds_records);
    apply(node, &objects).await
}

/// The namespace and the definitions of our resources.
fn holds_records(object: &Object) -> bool {
    matches!(object.kind(), "Namespace" | "CustomResourceDefinition")
}

async fn apply(node: &Node, objects: &[Object]) -> Result<(), PhaseError> {
    let client = clients::administrator().await?;
    let limit = node.config.limits.services_seconds.duration();
    until(limit, POLL, || async {
        let tell = |applied: manifests::Applied<'_>| {
            let (kind, name) = (applied.kind, applied.name);
            node.progress.line(&format!("{kind} {name}"));
        };
        manifests::apply(&client, objects, tell)
            .await
            .map_err(|error| PhaseError::Apply(error.into()))
    })
    .await
}

/// Writes the record of the first node, and leaves it where the CLI gets it.
///
/// # Errors
/// [`PhaseError`].
pub async fn node_record(node: &Node) -> Result<(), PhaseError> {
    let material = material(node)?;
    let attester = material
        .attester
        .as_deref()
        .ok_or(PhaseError::Missing("identity of this node"))?;
    let attester: AttesterIdentity = attester
        .parse()
        .map_err(|_no_identity| PhaseError::MalformedAttester)?;
    let limit = node.config.limits.services_seconds.duration();
    let record = until(limit, POLL, || record(node, material, attester)).await?;
    let path = node.config.state.join(NODE_RECORD);
    Ok(file::replace(&path, record.to_string().as_bytes(), 0o600)?)
}

async fn record(
    node: &Node,
    material: &InitMaterial,
    attester: AttesterIdentity,
) -> Result<serde_json::Value, PhaseError> {
    let store = KubeStore::new(clients::administrator().await?);
    let disk = node.hand_off.disk_uuid;
    let read = async || {
        let found = store.node(disk).await;
        found.map_err(|error| PhaseError::Store(Box::new(error)))
    };
    // A record is not adopted twice: a run that was killed after it finds it here.
    if read().await?.is_none() {
        let action = OperatorAction::Adopt(Adoption {
            disk,
            node: node.hand_off.node_name.clone(),
            role: Role::ControlPlane,
            attester,
            generation: node.hand_off.generation,
        });
        let context = Context {
            now: now(),
            key_version: material.cluster.key_version,
            live_until: None,
        };
        let persisted = store
            .settle(|snapshot| operate(&action, &context, snapshot))
            .await
            .map_err(|error| PhaseError::Adopt(Box::new(error)))?;
        // The API server's audit log has it, and who did it.
        tracing::info!(%disk, %attester, "this node's record is written");
        drop(persisted.audited());
    }
    let record = read()
        .await?
        .ok_or(PhaseError::Missing("record of this node"))?
        .record;
    if record.attester != attester {
        return Err(PhaseError::OtherAttester {
            recorded: record.attester.to_string(),
            expected: attester.to_string(),
        });
    }
    if record.state != RecordState::Active {
        return Err(PhaseError::InactiveRecord);
    }
    Ok(listed(&record))
}

/// An active record as lists of records show one (docs/formats.md).
fn listed(record: &NodeRecord) -> serde_json::Value {
    json!({
        "node": record.node,
        "role": record.role,
        "state": "active",
        "disk": record.disk,
        "attester": record.attester,
        "image": record.image,
        "generation": record.generation,
        "key_version": record.key_version,
        "created": record.created.0,
        "last_seen": record.last_seen.0,
    })
}

/// Waits until each of them runs wherever it should.
///
/// # Errors
/// [`PhaseError`].
pub async fn wait_until_ready(node: &Node) -> Result<(), PhaseError> {
    if !node.config.services.wait {
        return Ok(());
    }
    let limit = node.config.limits.services_seconds.duration();
    for name in ["join-service", "key-service", "verification-service"] {
        until(limit, POLL, || async {
            let sets: Api<DaemonSet> = Api::namespaced(clients::administrator().await?, NAMESPACE);
            let set = sets
                .get(name)
                .await
                .map_err(PhaseError::api("look at the services"))?;
            if is_ready(&set) {
                return Ok(());
            }
            Err(PhaseError::TookTooLong { what: name, limit })
        })
        .await?;
    }
    Ok(())
}

fn is_ready(set: &DaemonSet) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.observed_generation == set.metadata.generation
            && status.desired_number_scheduled > 0
            && status.number_ready == status.desired_number_scheduled
    })
}

fn material(node: &Node) -> Result<&InitMaterial, PhaseError> {
    match &node.material {
        Material::Init(material) => Ok(material),
        Material::Join(_) | Material::None => Err(PhaseError::Missing("init material")),
    }
}

fn values(node: &Node, cluster: Option<Cluster>) -> Values {
    let authority = file::read_text(&Path::new(PKI).join("ca.crt"));
    Values {
        version: node.config.services.version.clone(),
        kubernetes: KubernetesMaterial {
            // Only what an init deploys needs it, and it made the file.
            certificate_authority: authority.unwrap_or_default(),
            ..node.kubernetes().clone()
        },
        state_folder: node.config.state.display().to_string(),
        attestation: Attestation {
            command_line: node.config.services.command_line.clone(),
            tpm: node.config.services.tpm.clone(),
        },
        cluster,
    }
}

fn cluster(material: &InitMaterial) -> Result<Cluster, PhaseError> {
    let mut files = BTreeMap::new();
    for name in control_plane::file_names() {
        let content = SecretText::new(file::read_text(&Path::new(PKI).join(name))?);
        files.insert(name.to_owned(), content);
    }
    Ok(Cluster {
        keys: material.cluster.clone(),
        admission: material.admission.clone(),
        policy: material.policy.clone(),
        reference_values: material.reference_values.clone(),
        control_plane_files: ControlPlaneFiles(files),
    })
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |time| time.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_records_runs_nothing_and_lets_nobody_do_anything() {
        let values = Values {
            version: "1".into(),
            kubernetes: KubernetesMaterial {
                api_endpoint: "api.example:6443".into(),
                certificate_authority: String::new(),
                pod_subnet: "10.20.0.0/16".into(),
                service_subnet: "10.96.0.0/16".into(),
                dns_domain: "cluster.local".into(),
                version: "v1.20.2".into(),
            },
            state_folder: "/run/state".into(),
            attestation: Attestation {
                command_line: "/proc/cmdline".into(),
                tpm: "/dev/tpmrm0".into(),
            },
            cluster: None,
        };
        let mut objects = manifests::render(&values).unwrap();
        objects.retain(holds_records);
        let names: Vec<_> = objects.iter().map(Object::name).collect();
        let expected = [
            NAMESPACE,
            "noderecords.constellation.internal",
            "admissionclaims.constellation.internal",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_service_is_ready_when_all_of_its_pods_are_and_the_status_is_new() {
        let ready = |observed, desired, number| {
            let set = json!({
                "metadata": {"generation": 2},
                "status": {
                    "observedGeneration": observed, "desiredNumberScheduled": desired,
                    "numberReady": number, "currentNumberScheduled": 1, "numberMisscheduled": 0,
                },
            });
            is_ready(&serde_json::from_value(set).unwrap())
        };
        assert!(ready(2, 1, 1));
        for (observed, desired, number) in [(1, 1, 1), (2, 0, 0), (2, 2, 1)] {
            assert!(!ready(observed, desired, number));
        }
    }
}
