//! `constellation owner`: the key that an image belongs to.

use anyhow::Result;
use clap::{Args, Subcommand};
use owner::{AdmissionKey, OwnerKey};
use secret_file::{SecretKind, write_credential, write_encrypted};
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    files,
    output::OutputFormat,
    secrets::{PassphraseArgs, fresh_seed, owner_key},
};

/// Make an owner key, and certify the admission keys that act for it.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make an owner key: `owner.key` (encrypted) and `owner.pub`
    New(New),
    /// Make an admission key for a join service, certified by the owner
    Certify(Certify),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::New(new) => output.print(&new.run()?),
            Self::Certify(certify) => output.print(&certify.run()?),
        }
    }
}

/// Make an owner key.
#[derive(Args, Debug)]
pub(crate) struct New {
    /// Directory for `owner.key` and `owner.pub`; neither may exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

impl New {
    fn run(self) -> Result<NewOwner> {
        files::create_dir(&self.out)?;
        let passphrase = self.passphrase.fresh(SecretKind::OwnerKey)?;
        let seed = fresh_seed()?;
        let owner = OwnerKey::from_seed(&seed)?.public_key();
        let key = self.out.join("owner.key");
        write_encrypted(
            &key,
            SecretKind::OwnerKey,
            seed.expose_secret(),
            &passphrase,
        )?;
        files::create(&self.out.join("owner.pub"), format!("{owner}\n").as_bytes())?;
        Ok(NewOwner {
            fingerprint: owner.fingerprint().to_string(),
            key,
        })
    }
}

#[derive(Serialize)]
struct NewOwner {
    fingerprint: String,
    key: PathBuf,
}

impl fmt::Display for NewOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Owner {}", self.fingerprint)?;
        writeln!(
            f,
            "Key in `{}`; keep a copy offline, nothing replaces it",
            self.key.display()
        )?;
        write!(
            f,
            "Next: `constellation image own UKI --owner {}`",
            self.key.with_extension("pub").display()
        )
    }
}

/// Make an admission key, certified by the owner.
#[derive(Args, Debug)]
pub(crate) struct Certify {
    /// The owner key
    #[arg(long, value_name = "FILE")]
    owner_key: PathBuf,
    /// Directory for `admission.key` and `admission.cert.json`; neither may exist. The key is
    /// written in the clear, mode 0600: give a directory on tmpfs, and move the key into a
    /// systemd credential
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

impl Certify {
    fn run(self) -> Result<NewAdmissionKey> {
        let owner = owner_key(&self.owner_key, &self.passphrase)?;
        files::create_dir(&self.out)?;
        certify(&owner, &self.out)
    }
}

fn certify(owner: &OwnerKey, out: &Path) -> Result<NewAdmissionKey> {
    let seed = fresh_seed()?;
    let certificate = owner.certify(AdmissionKey::public_half(&seed)?);
    let key = out.join("admission.key");
    write_credential(&key, SecretKind::AdmissionKey, seed.expose_secret())?;
    let certificate_file = out.join("admission.cert.json");
    files::create(
        &certificate_file,
        certificate.encode(&owner.public_key()).as_bytes(),
    )?;
    Ok(NewAdmissionKey {
        key,
        certificate: certificate_file,
        owner: owner.public_key().fingerprint().to_string(),
    })
}

#[derive(Serialize)]
struct NewAdmissionKey {
    key: PathBuf,
    certificate: PathBuf,
    owner: String,
}

impl fmt::Display for NewAdmissionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Admission key `{}`, unencrypted", self.key.display())?;
        write!(
            f,
            "Certificate   `{}`, owner {}",
            self.certificate.display(),
            self.owner
        )
    }
}
