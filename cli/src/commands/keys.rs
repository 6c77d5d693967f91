//! `constellation keys`: the secrets of a cluster.

use anyhow::Result;
use clap::{Args, Subcommand};
use identity::{ClusterId, KeyVersion};
use key_hierarchy::{KeyEncryptionKey, KeyHierarchy, KeySalt, MeasurementSalt};
use owner::AdmissionKey;
use secret::MasterSecret;
use secret_file::{Passphrase, SecretKind, write_credential, write_encrypted};
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    cluster_file::ClusterFile,
    files,
    output::OutputFormat,
    secrets::{PassphraseArgs, fresh_seed, random},
};

/// Make the secrets of a cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a master secret: `master-secret.key` (encrypted) and `cluster.json` (public)
    New(New),
    /// Make the key that signs a service's audit log: `audit.key` and `audit.pub`
    Audit(Audit),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::New(new) => output.print(&new.run()?),
            Self::Audit(audit) => output.print(&audit.run()?),
        }
    }
}

/// Make a master secret.
#[derive(Args, Debug)]
pub(crate) struct New {
    /// Directory for `master-secret.key` and `cluster.json`; neither may exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

impl New {
    fn run(self) -> Result<NewKeys> {
        files::create_dir(&self.out)?;
        let passphrase = self.passphrase.fresh(SecretKind::MasterSecret)?;
        NewKeys::make(&self.out, &passphrase).map(|(keys, _)| keys)
    }
}

impl NewKeys {
    /// Makes both files in a directory that is there.
    pub(super) fn make(out: &Path, passphrase: &Passphrase) -> Result<(Self, MasterSecret)> {
        let secret = MasterSecret::try_fill(|bytes| random(bytes))?;
        let (mut salt, mut measurement_salt) = ([0; 32], [0; 32]);
        random(&mut salt)?;
        random(&mut measurement_salt)?;
        let key = out.join("master-secret.key");
        write_encrypted(
            &key,
            SecretKind::MasterSecret,
            secret.expose_secret(),
            passphrase,
        )?;
        let copy = MasterSecret::try_fill(|bytes| {
            bytes.copy_from_slice(secret.expose_secret());
            anyhow::Ok(())
        })?;
        let hierarchy = KeyHierarchy::new(
            KeyVersion::FIRST,
            KeyEncryptionKey {
                secret: copy,
                salt: KeySalt(salt),
            },
        );
        let cluster_id = hierarchy.derive_cluster_id(&MeasurementSalt(measurement_salt))?;
        let cluster = out.join("cluster.json");
        ClusterFile::new(cluster_id, salt, measurement_salt).create(&cluster)?;
        let keys = Self {
            cluster_id,
            key,
            cluster,
        };
        Ok((keys, secret))
    }
}

#[derive(Serialize)]
pub(super) struct NewKeys {
    cluster_id: ClusterId,
    key: PathBuf,
    cluster: PathBuf,
}

impl fmt::Display for NewKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Cluster {}", self.cluster_id)?;
        writeln!(f, "Master secret `{}`, encrypted", self.key.display())?;
        writeln!(f, "Salts         `{}`", self.cluster.display())?;
        write!(
            f,
            "Keep copies of both offline: without either no disk of this cluster opens again"
        )
    }
}

/// Make the key that signs a service's audit log.
#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// Directory for `audit.key` and `audit.pub`; neither may exist. The key is written in the
    /// clear, mode 0600: give a directory on tmpfs, and move the key into a systemd credential
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Audit {
    fn run(self) -> Result<NewAuditKey> {
        files::create_dir(&self.out)?;
        let seed = fresh_seed()?;
        let (key, public_key) = (self.out.join("audit.key"), self.out.join("audit.pub"));
        write_credential(&key, SecretKind::AuditKey, seed.expose_secret())?;
        // An audit key is an Ed25519 key like an admission key; only its use differs.
        let text = format!("{}\n", hex::encode(AdmissionKey::public_half(&seed)?));
        files::create(&public_key, text.as_bytes())?;
        Ok(NewAuditKey { key, public_key })
    }
}

#[derive(Serialize)]
struct NewAuditKey {
    key: PathBuf,
    public_key: PathBuf,
}

impl fmt::Display for NewAuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Audit key  `{}`, unencrypted", self.key.display())?;
        write!(
            f,
            "Public key `{}`, for `constellation audit verify`",
            self.public_key.display()
        )
    }
}
