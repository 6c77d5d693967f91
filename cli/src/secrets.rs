//! Where the CLI's passphrases and fresh secrets come from.

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::rand;
use clap::Args;
use owner::{OwnerKey, Seed};
use secret_file::{Passphrase, SecretKind};
use std::{
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use crate::output::WithHint as _;

/// How a command gets the passphrase of a secret file.
#[derive(Args, Debug)]
pub(crate) struct PassphraseArgs {
    /// File with the passphrase (`/dev/fd/N` for a descriptor) [default: ask on the terminal]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// The passphrase of a secret file that exists.
    pub(crate) fn existing(&self, what: SecretKind) -> Result<Passphrase> {
        match &self.passphrase_file {
            Some(path) => Ok(Passphrase::read(path)?),
            None => ask(&format!("Passphrase of the {what}: ")),
        }
    }

    /// The passphrase of a secret file about to be written; asked twice.
    pub(crate) fn fresh(&self, what: SecretKind) -> Result<Passphrase> {
        if let Some(path) = &self.passphrase_file {
            return Ok(Passphrase::read(path)?);
        }
        let first = prompt(&format!("New passphrase for the {what}: "))?;
        if first != prompt("The same again: ")? {
            bail!("the two passphrases differ");
        }
        non_empty(first)
    }
}

/// Loads an owner key.
pub(crate) fn owner_key(path: &Path, passphrase: &PassphraseArgs) -> Result<OwnerKey> {
    decrypt_owner_key(path, &passphrase.existing(SecretKind::OwnerKey)?)
}

/// The same with a passphrase that is known.
pub(crate) fn decrypt_owner_key(path: &Path, passphrase: &Passphrase) -> Result<OwnerKey> {
    let seed =
        secret_file::read_encrypted(path, SecretKind::OwnerKey, passphrase, Seed::from_slice)
            .hint("an owner key is made by `constellation owner new`")?;
    Ok(OwnerKey::from_seed(&seed)?)
}

/// Does both at the same time, for secret files: passphrases are slow on purpose.
pub(crate) fn both<A: Send, B>(
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B,
) -> (A, B) {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        match one.join() {
            Ok(one) => (one, other),
            Err(panic) => resume_unwind(panic),
        }
    })
}

/// Fills `bytes` from the operating system's generator.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    rand::fill(bytes)
        .ok()
        .context("the system gave no random bytes")
}

/// A fresh key seed.
pub(crate) fn fresh_seed() -> Result<Seed> {
    Seed::try_fill(|bytes| random(bytes))
}

fn ask(text: &str) -> Result<Passphrase> {
    non_empty(prompt(text)?)
}

fn prompt(text: &str) -> Result<String> {
    rpassword::prompt_password(text)
        .context("ask for the passphrase")
        .hint("without a terminal, give `--passphrase-file FILE`")
}

fn non_empty(text: String) -> Result<Passphrase> {
    if text.is_empty() {
        bail!("the passphrase is empty");
    }
    Ok(Passphrase::new(text))
}
