use crate::Cluster;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hand_off::SecretText;
use key_hierarchy::{DeriveError, KeyEncryptionKey, KeyHierarchy, KeySalt, ServiceKey};
use secret::MasterSecret;
use secret_file::{SecretKind, encode_credential};
use serde::Serialize;
use zeroize::Zeroizing;

/// Why the secrets of a cluster cannot be written down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The control-plane files cannot be encoded.
    #[error("cannot encode the control-plane files")]
    ControlPlaneFiles(#[source] serde_json::Error),
    /// A key cannot be derived.
    #[error("cannot derive the keys of the audit logs")]
    Derivation(#[source] DeriveError),
    /// Not 64 hexadecimal digits.
    #[error("{field}: expected 64 hexadecimal digits")]
    Hex {
        /// Which.
        field: &'static str,
    },
}

/// What `manifests/cluster.yaml` sees, most of it in base64 as `data` of a Secret wants it.
#[derive(Serialize)]
pub(crate) struct Secrets<'a> {
    admission_certificate: SecretText,
    admission_seed: SecretText,
    cluster_id: String,
    cluster_id_data: SecretText,
    control_plane_files: SecretText,
    join_audit_key: SecretText,
    join_audit_public: String,
    key_audit_key: SecretText,
    key_audit_public: String,
    key_version: String,
    key_version_data: SecretText,
    master_secret: SecretText,
    measurement_salt: SecretText,
    owner: &'a str,
    policy: &'a str,
    reference_values: &'a str,
    salt: SecretText,
}

impl<'a> Secrets<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Result<Self, SecretsError> {
        let (keys, admission) = (&cluster.keys, &cluster.admission);
        let master = decode("master secret", keys.master_secret.expose_secret())?;
        let salt = decode("salt", &keys.salt)?;
        decode("measurement salt", &keys.measurement_salt)?;
        let seed = decode("admission key", admission.seed.expose_secret())?;
        let hierarchy = hierarchy(keys.key_version, &master, &salt)?;
        let (join_audit_key, join_audit_public) =
            audit_key(&hierarchy, ServiceKey::JoinServiceAudit)?;
        let (key_audit_key, key_audit_public) = audit_key(&hierarchy, ServiceKey::KeyServiceAudit)?;
        let files = serde_json::to_vec(&cluster.control_plane_files)
            .map(Zeroizing::new)
            .map_err(SecretsError::ControlPlaneFiles)?;
        let (cluster_id, key_version) =
            (keys.cluster_id.to_string(), keys.key_version.0.to_string());
        Ok(Self {
            admission_certificate: data(admission.certificate.as_bytes()),
            admission_seed: data(&encode_credential(SecretKind::AdmissionKey, &seed)),
            cluster_id_data: data(cluster_id.as_bytes()),
            cluster_id,
            control_plane_files: data(&files),
            join_audit_key,
            join_audit_public,
            key_audit_key,
            key_audit_public,
            key_version_data: data(key_version.as_bytes()),
            key_version,
            master_secret: data(&encode_credential(SecretKind::MasterSecret, &master)),
            measurement_salt: data(keys.measurement_salt.as_bytes()),
            owner: &admission.owner,
            policy: &cluster.policy,
            reference_values: &cluster.reference_values,
            salt: data(keys.salt.as_bytes()),
        })
    }
}

/// Derived, not made: rendering a cluster again gives the same keys, and so does the operator's backup.
fn audit_key(
    hierarchy: &KeyHierarchy,
    key: ServiceKey,
) -> Result<(SecretText, String), SecretsError> {
    let seed = hierarchy
        .derive_service_seed(key)
        .map_err(SecretsError::Derivation)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose_secret())
        .map_err(|_| SecretsError::Derivation(DeriveError::Derivation))?;
    let secret = encode_credential(SecretKind::AuditKey, seed.expose_secret());
    Ok((data(&secret), hex::encode(pair.public_key())))
}

fn hierarchy(
    version: identity::KeyVersion,
    master: &[u8; 32],
    salt: &[u8; 32],
) -> Result<KeyHierarchy, SecretsError> {
    let secret = MasterSecret::try_fill(|bytes| -> Result<(), SecretsError> {
        bytes.copy_from_slice(master);
        Ok(())
    })?;
    let salt = KeySalt(*salt);
    Ok(KeyHierarchy::new(
        version,
        KeyEncryptionKey { secret, salt },
    ))
}

fn decode(field: &'static str, text: &str) -> Result<Zeroizing<[u8; 32]>, SecretsError> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text, bytes.as_mut_slice()).map_err(|_| SecretsError::Hex { field })?;
    Ok(bytes)
}

fn data(bytes: &[u8]) -> SecretText {
    SecretText::new(STANDARD.encode(bytes))
}
