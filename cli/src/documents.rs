//! The owner's documents: edited in the clear, signed into an envelope.

use anyhow::{Context as _, Result};
use clap::Args;
use owner::{DocumentKind, OwnerFingerprint, OwnerPublicKey, SignedDocument};
use serde::{
    Serialize,
    de::{DeserializeOwned, IntoDeserializer as _, value},
};
use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    files,
    output::WithHint as _,
    secrets::{PassphraseArgs, owner_key},
};

/// Reads a document's JSON.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_slice(&files::read(path)?)
        .with_context(|| format!("read `{}`", path.display()))
}

/// Reads an argument as a document has it.
pub(crate) fn parse_text<T: DeserializeOwned>(text: &str) -> Result<T, value::Error> {
    let text: value::StrDeserializer<'_, _> = text.into_deserializer();
    T::deserialize(text)
}

/// Replaces a document by its JSON.
pub(crate) fn replace(path: &Path, document: &impl Serialize) -> Result<()> {
    files::replace(path, encode(document)?.as_bytes())
}

/// Writes a document that must not exist yet.
pub(crate) fn create(path: &Path, document: &impl Serialize) -> Result<()> {
    files::create(path, encode(document)?.as_bytes())
}

/// Opens a signed document by the owner whose public key is in `owner`.
pub(crate) fn open(path: &Path, kind: DocumentKind, owner: &OwnerFingerprint) -> Result<String> {
    SignedDocument::open(&files::read(path)?, kind, owner)
        .with_context(|| format!("open `{}`", path.display()))
}

/// Reads an owner's public key file.
pub(crate) fn owner_public_key(path: &Path) -> Result<OwnerPublicKey> {
    files::read_text(path)?
        .trim_end()
        .parse()
        .with_context(|| format!("read `{}`", path.display()))
        .hint("give the file `owner.pub` that `constellation owner new` wrote")
}

/// Sign a document with the owner key.
#[derive(Args, Debug)]
pub(crate) struct Sign {
    /// The document
    file: PathBuf,
    /// The owner key
    #[arg(long, value_name = "FILE")]
    owner_key: PathBuf,
    /// The signed document, replaced if it exists; services notice the change by themselves
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

impl Sign {
    /// Signs the document after `check` accepted its text and told its serial.
    pub(crate) fn run(
        self,
        kind: DocumentKind,
        check: impl FnOnce(&str) -> Result<u64>,
    ) -> Result<Signed> {
        let payload = files::read_text(&self.file)?;
        let serial = check(&payload)
            .with_context(|| format!("check `{}`", self.file.display()))
            .hint("nothing was signed: services would refuse this document")?;
        let owner = owner_key(&self.owner_key, &self.passphrase)?;
        let document = SignedDocument::sign(kind, payload, &owner);
        files::replace(&self.out, document.encode().as_bytes())?;
        Ok(Signed {
            document: self.out,
            serial,
            owner: owner.public_key().fingerprint().to_string(),
        })
    }
}

/// A document that was signed.
#[derive(Serialize)]
pub(crate) struct Signed {
    document: PathBuf,
    serial: u64,
    owner: String,
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signed `{}`, serial {}, owner {}",
            self.document.display(),
            self.serial,
            self.owner
        )
    }
}

fn encode(document: &impl Serialize) -> Result<String> {
    let mut text = serde_json::to_string_pretty(document).context("encode the document")?;
    text.push('\n');
    Ok(text)
}
