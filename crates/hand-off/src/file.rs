use crate::{KUBELET_CLIENT_KEY, KUBELET_SERVING_KEY};
use evidence::AdmissionPath;
use identity::{ClusterId, DiskId, Generation, NodeName, Role};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Name of the file with [`HandOff`].
const HAND_OFF: &str = "handoff.json";

/// Name of the file with the material of an init or join, where one came.
pub const MATERIAL: &str = "material.json";

/// The longest file that is read, in bytes. Material has certificates, keys and two signed documents.
pub const MAX_FILE: u64 = 2 << 20;

/// What the verified root is told by the agent. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOff {
    /// Format version, 1.
    pub version: u32,
    /// How this boot was admitted.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub path: AdmissionPath,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node's name in it.
    pub node_name: NodeName,
    /// The node's role in it.
    pub role: Role,
    /// The state disk.
    pub disk_uuid: DiskId,
    /// The generation of its header.
    pub generation: Generation,
    /// The device with the state file system.
    pub state_device: String,
    /// The attestation key that this boot was admitted with, where it is a TPM's that the admitter
    /// certified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_key: Option<AttestationKey>,
}

/// An attestation key, for whoever makes it again in the same TPM. Nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationKey {
    /// Its `TPMT_PUBLIC`, hexadecimal: what comes out of the TPM when it is the same key.
    #[serde(with = "hex::serde")]
    pub public: Vec<u8>,
    /// What is random in the template that it was made from.
    #[serde(with = "hex::serde")]
    pub unique: [u8; 32],
    /// The admitter's certificate for it (`owner::AkCertificate`), as it came.
    pub certificate: String,
}

/// A file of the hand-off cannot be written. A folder that is there already is not ours.
#[derive(Debug, thiserror::Error)]
#[error("write `{}`", path.display())]
pub struct WriteError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the file system said.
    #[source]
    pub source: io::Error,
}

/// A file of the hand-off cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is not what it should be.
    #[error("`{}`", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It is absent or unreadable.
    #[error("read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// It is longer than [`MAX_FILE`].
    #[error("`{}` has more than {MAX_FILE} bytes", .0.display())]
    TooLong(PathBuf),
}

/// What goes along with [`HandOff`]; all of it is secret.
#[derive(Default)]
pub struct Attachments {
    /// The material as it was unsealed, and not parsed.
    pub material: Option<Zeroizing<Vec<u8>>>,
    /// The private keys of the kubelet's client and serving certificates, PEM.
    pub kubelet_keys: Option<[Zeroizing<String>; 2]>,
}

impl std::fmt::Debug for Attachments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attachments(..)")
    }
}

impl HandOff {
    /// Writes all files into `folder`, which must not exist yet; the hand-off file comes last, so that
    /// whoever sees it sees the others.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&self, folder: &Path, attachments: &Attachments) -> Result<(), WriteError> {
        let failed = |source| WriteError {
            path: folder.to_owned(),
            source,
        };
        DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        if let Some(material) = &attachments.material {
            create(&folder.join(MATERIAL), material)?;
        }
        if let Some([client, serving]) = &attachments.kubelet_keys {
            create(&folder.join(KUBELET_CLIENT_KEY), client.as_bytes())?;
            create(&folder.join(KUBELET_SERVING_KEY), serving.as_bytes())?;
        }
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        create(&folder.join(HAND_OFF), &text)
    }

    /// Reads the file in `folder`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(folder: &Path) -> Result<Self, ReadError> {
        read(&folder.join(HAND_OFF))
    }
}

/// Reads the material in `folder`; `None` where the node got none.
///
/// # Errors
/// [`ReadError`].
pub fn read_material<T: DeserializeOwned>(folder: &Path) -> Result<Option<T>, ReadError> {
    match read(&folder.join(MATERIAL)) {
        Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn create(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(|source| WriteError {
            path: path.to_owned(),
            source,
        })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ReadError> {
    let failed = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Sized once, so that no copy of a secret is left behind in memory that a growing vector gave up.
    let length = file.metadata().map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(ReadError::TooLong(path.to_owned()));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(MAX_FILE).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|source| ReadError::Content {
        path: path.to_owned(),
        source,
    })
}

fn as_text<S: Serializer>(path: &AdmissionPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AdmissionPath, D::Error> {
    use AdmissionPath::{Init, Join, Recover, Rejoin};
    let text = String::deserialize(deserializer)?;
    [Init, Join, Rejoin, Recover]
        .into_iter()
        .find(|path| path.to_string() == text)
        .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no admission path")))
}

#[cfg(test)]
mod tests;
