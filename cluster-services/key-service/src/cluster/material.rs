//! What the pod's mounted Secrets hold.

use hand_off::ControlPlaneFiles;
use identity::{ClusterId, KeyVersion};
use key_hierarchy::{DeriveError, KeyEncryptionKey, KeyHierarchy, KeySalt, MeasurementSalt};
use secret::MasterSecret;
use secret_file::{SecretFileError, SecretKind};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};
use zeroize::Zeroizing;

/// Why there is no master secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterSecretError {
    /// The secret gives another cluster's id: it is not this cluster's, or a salt is not.
    #[error("expected cluster {expected}, the master secret gives {got}")]
    Cluster {
        /// The id beside the secret.
        expected: ClusterId,
        /// The id that follows from it.
        got: ClusterId,
    },
    /// The cluster's id does not follow from a first version.
    #[error("cannot derive the cluster's id")]
    Derivation(#[source] DeriveError),
    /// A file does not say what it should.
    #[error("malformed `{}`", .0.display())]
    Malformed(PathBuf),
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The secret itself cannot be read.
    #[error("cannot read the secret")]
    Secret(#[source] SecretFileError),
}

/// Why there are no control-plane files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// Not what an init wrote.
    #[error("malformed `{}`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where; the text is secret.
        line: usize,
    },
    /// The file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Loads the key-encryption key from the files of Secret `master-secret`, and checks that it is the
/// one of the cluster that the Secret names.
pub(crate) fn master_secret(folder: &Path) -> Result<KeyHierarchy, MasterSecretError> {
    let path = folder.join("secret");
    let secret =
        secret_file::read_credential(&path, SecretKind::MasterSecret, MasterSecret::from_slice)
            .map_err(MasterSecretError::Secret)?;
    let key = KeyEncryptionKey {
        secret,
        salt: KeySalt(salt(folder, "salt")?),
    };
    let version = KeyVersion(parse(folder, "key-version")?);
    let expected: ClusterId = parse(folder, "cluster-id")?;
    let keys = KeyHierarchy::new(version, key);
    let got = keys
        .derive_cluster_id(&MeasurementSalt(salt(folder, "measurement-salt")?))
        .map_err(MasterSecretError::Derivation)?;
    if got == expected {
        Ok(keys)
    } else {
        Err(MasterSecretError::Cluster { expected, got })
    }
}

fn salt(folder: &Path, name: &str) -> Result<[u8; 32], MasterSecretError> {
    let mut salt = [0; 32];
    hex::decode_to_slice(text(folder, name)?, &mut salt)
        .map_err(|_| MasterSecretError::Malformed(folder.join(name)))?;
    Ok(salt)
}

fn parse<T: FromStr>(folder: &Path, name: &str) -> Result<T, MasterSecretError> {
    let malformed = |_| MasterSecretError::Malformed(folder.join(name));
    text(folder, name)?.parse().map_err(malformed)
}

/// Longer than any of the texts.
const MAX_TEXT: u64 = 256;

fn text(folder: &Path, name: &str) -> Result<String, MasterSecretError> {
    let path = folder.join(name);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(MAX_TEXT).read_to_string(&mut text)) {
        Ok(_) => Ok(text.trim_end().to_owned()),
        Err(source) => Err(MasterSecretError::Read { path, source }),
    }
}

/// Where the control-plane files are. They are read for each release, so that this process does not
/// keep the cluster's authorities in its memory.
#[derive(Debug)]
pub(crate) struct ControlPlaneFilesSource(PathBuf);

impl ControlPlaneFilesSource {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// The document as it was stored, once it is known to be one.
    pub(crate) fn read(&self) -> Result<Zeroizing<Vec<u8>>, FilesError> {
        let failed = |source| FilesError::Read {
            path: self.0.clone(),
            source,
        };
        let file = File::open(&self.0).map_err(failed)?;
        // Reserved at once: a growing vector would leave copies of the keys behind.
        let length = file
            .metadata()
            .map_err(failed)?
            .len()
            .min(hand_off::MAX_FILE);
        let mut text = Zeroizing::new(Vec::with_capacity(
            usize::try_from(length).unwrap_or_default() + 1,
        ));
        file.take(hand_off::MAX_FILE)
            .read_to_end(&mut text)
            .map_err(failed)?;
        let parsed: Result<ControlPlaneFiles, _> = serde_json::from_slice(&text);
        match parsed {
            Ok(files) if !files.0.is_empty() => Ok(text),
            Ok(_) => Err(self.malformed(0)),
            Err(error) => Err(self.malformed(error.line())),
        }
    }

    fn malformed(&self, line: usize) -> FilesError {
        FilesError::Malformed {
            path: self.0.clone(),
            line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyEncryptionKey {
            secret: MasterSecret::from_slice(&[1; 32]).unwrap(),
            salt: KeySalt([2; 32]),
        };
        let keys = KeyHierarchy::new(KeyVersion::FIRST, key);
        let id = keys.derive_cluster_id(&MeasurementSalt([3; 32])).unwrap();
        let secret = folder.path().join("secret");
        secret_file::write_credential(&secret, SecretKind::MasterSecret, &[1; 32]).unwrap();
        for (name, text) in [
            ("salt", "02".repeat(32)),
            ("measurement-salt", "03".repeat(32)),
            ("key-version", "1".into()),
            ("cluster-id", format!("{id}\n")),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn a_secret_of_another_cluster_is_refused() {
        let whole = folder();
        master_secret(whole.path()).unwrap();
        for (name, text) in [
            ("salt", "04".repeat(32)),
            ("measurement-salt", "04".repeat(32)),
            ("cluster-id", "05".repeat(32)),
        ] {
            let folder = folder();
            fs::write(folder.path().join(name), text).unwrap();
            let error = master_secret(folder.path()).unwrap_err();
            assert!(
                matches!(error, MasterSecretError::Cluster { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        for name in [
            "secret",
            "salt",
            "measurement-salt",
            "key-version",
            "cluster-id",
        ] {
            let folder = folder();
            fs::write(folder.path().join(name), "x").unwrap();
            assert!(master_secret(folder.path()).is_err(), "{name}");
            fs::remove_file(folder.path().join(name)).unwrap();
            assert!(master_secret(folder.path()).is_err(), "{name}");
        }
        let later = folder();
        fs::write(later.path().join("key-version"), "2").unwrap();
        let error = master_secret(later.path()).unwrap_err();
        assert!(matches!(error, MasterSecretError::Derivation(_)), "{error}");
    }

    #[test]
    fn control_plane_files_are_a_document_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("files.json");
        let source = ControlPlaneFilesSource::new(&path);
        assert!(matches!(source.read(), Err(FilesError::Read { .. })));
        for bad in ["", "{}", "[]", "{\"ca.key\": 1}", "{\"ca.key\": \"secret\""] {
            fs::write(&path, bad).unwrap();
            let error = source.read().unwrap_err();
            assert!(matches!(error, FilesError::Malformed { .. }), "{bad}");
            assert!(!format!("{error:?}").contains("ca.key"));
        }
        fs::write(&path, "{\"ca.key\": \"pem\"}").unwrap();
        assert_eq!(source.read().unwrap().as_slice(), b"{\"ca.key\": \"pem\"}");
    }
}
