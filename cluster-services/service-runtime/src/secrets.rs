//! Where a service's secrets come from.

use secret_file::{Passphrase, SecretFileError, SecretKind};
use serde::Deserialize;
use std::path::PathBuf;

/// The source of one secret, as a configuration names it. There is no default and no plain value.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum SecretSource {
    /// A file that systemd decrypted onto a root-only tmpfs (`LoadCredentialEncrypted=`).
    Credential {
        /// The credential.
        path: PathBuf,
    },
    /// A passphrase-encrypted file.
    Encrypted {
        /// The encrypted file.
        path: PathBuf,
        /// Where the passphrase is read once, at start: a credential or `/dev/fd/N`.
        passphrase: PathBuf,
    },
}

impl SecretSource {
    /// Reads the 32 bytes and hands them to `take`; they are wiped afterwards.
    ///
    /// # Errors
    /// [`SecretFileError`] names the file and what it should hold.
    pub fn load<T>(
        &self,
        kind: SecretKind,
        take: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, SecretFileError> {
        match self {
            Self::Credential { path } => secret_file::read_credential(path, kind, take),
            Self::Encrypted { path, passphrase } => {
                let passphrase = Passphrase::read(passphrase)?;
                secret_file::read_encrypted(path, kind, &passphrase, take)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        secret: SecretSource,
    }

    #[test]
    fn both_sources_give_the_secret_and_nothing_else_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("phrase"), "words\n").unwrap();
        let passphrase = Passphrase::read(&path("phrase")).unwrap();
        let kind = SecretKind::MasterSecret;
        secret_file::write_credential(&path("plain"), kind, &[1; 32]).unwrap();
        secret_file::write_encrypted(&path("age"), kind, &[2; 32], &passphrase).unwrap();
        let load = |text: String| toml::from_str(&text).map(|Sample { secret }| secret);
        let bytes = |source: &SecretSource, kind| source.load(kind, |bytes| Some(bytes.to_vec()));
        let plain = load(format!("secret.credential.path = {:?}", path("plain"))).unwrap();
        assert_eq!(bytes(&plain, kind).unwrap(), [1; 32]);
        assert!(bytes(&plain, SecretKind::OwnerKey).is_err());
        let age = format!(
            "secret.encrypted = {{ path = {:?}, passphrase = {:?} }}",
            path("age"),
            path("phrase")
        );
        assert_eq!(bytes(&load(age).unwrap(), kind).unwrap(), [2; 32]);
        for bad in [
            "secret = \"0000\"",
            "secret.plain = \"0000\"",
            "secret.credential.path = \"a\"\nsecret.encrypted.path = \"b\"",
            "secret.encrypted.path = \"b\"",
        ] {
            assert!(load(bad.into()).is_err(), "{bad}");
        }
    }
}
