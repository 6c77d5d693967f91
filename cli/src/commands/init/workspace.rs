//! The folder of a cluster on the operator's machine.
//!
//! Everything that an init makes is in it, fsynced, before the first byte goes to the node. `init.json`
//! is written last: a folder without it has sent nothing.

use anyhow::{Context as _, Result, anyhow, bail};
use hand_off::{AdmissionMaterial, ClusterMaterial, ProgressMaterial, SecretText};
use key_hierarchy::KeyHierarchy;
use owner::{AdmissionKey, AdmissionKeyCertificate, OwnerKey, Seed};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use secret::MasterSecret;
use secret_file::{Passphrase, SecretKind, write_encrypted};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

use super::{
    ledger::Book,
    state::{Plan, State},
};
use crate::{
    admit::Journal,
    cluster_file::ClusterFile,
    commands::keys::NewKeys,
    documents, files,
    output::WithHint as _,
    secrets::{PassphraseArgs, both, fresh_seed},
};

/// The name in the bootstrapper's certificate. Nothing resolves it: the certificate itself is pinned.
pub(super) const BOOTSTRAPPER: &str = "bootstrapper";

/// The folder.
#[derive(Debug)]
pub(super) struct Workspace(PathBuf);

/// What is read back from it in each run.
pub(super) struct Secrets {
    pub(super) keys: Arc<KeyHierarchy>,
    pub(super) cluster: ClusterMaterial,
    pub(super) admission: AdmissionMaterial,
}

/// `progress.json`: both ends of the connection on which the run is followed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    pub(super) bootstrapper: ProgressMaterial,
    pub(super) client_key: SecretText,
}

impl Workspace {
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    pub(super) fn records(&self) -> PathBuf {
        self.0.join("nodes.json")
    }

    fn progress_file(&self) -> PathBuf {
        self.0.join("progress.json")
    }

    fn state_file(&self) -> PathBuf {
        self.0.join("init.json")
    }

    /// Opens the folder of an earlier run for the same plan, or makes all of it.
    pub(super) fn open(
        folder: &Path,
        plan: Plan,
        owner: &OwnerKey,
        passphrase: &PassphraseArgs,
    ) -> Result<(Self, Book, Secrets)> {
        files::create_dir(folder)?;
        let workspace = Self(folder.to_owned());
        let state_file = workspace.state_file();
        let journal = Journal::open(
            &state_file,
            "wait until the other `constellation init` ends",
        )?;
        let (secret, seed) = if state_file.exists() {
            let passphrase = passphrase.existing(SecretKind::MasterSecret)?;
            workspace.read(&passphrase)?
        } else {
            let passphrase = passphrase.fresh(SecretKind::MasterSecret)?;
            workspace.create(plan.clone(), owner, &passphrase).hint(
                "an earlier run that ended before it wrote `init.json` sent nothing to any node: delete the folder, or name another one",
            )?
        };
        let state = read_state(&state_file, &plan)?;
        let secrets = workspace.secrets(owner, secret, &seed)?;
        Ok((workspace, Book::new(state_file, state, journal), secrets))
    }

    /// Both ends' certificates and keys; `None` once the bootstrapper was told that all is over.
    pub(super) fn progress(&self) -> Result<Option<Progress>> {
        let path = self.progress_file();
        if !path.exists() {
            return Ok(None);
        }
        let text = Zeroizing::new(files::read(&path)?);
        let progress = serde_json::from_slice(&text);
        progress
            .map(Some)
            .with_context(|| format!("read `{}`", path.display()))
    }

    /// The run is over on both sides.
    pub(super) fn forget_progress(&self) -> Result<()> {
        let path = self.progress_file();
        fs::remove_file(&path).with_context(|| format!("remove `{}`", path.display()))
    }

    fn create(
        &self,
        plan: Plan,
        owner: &OwnerKey,
        passphrase: &Passphrase,
    ) -> Result<(MasterSecret, Seed)> {
        let seed = fresh_seed()?;
        let certificate = owner.certify(AdmissionKey::public_half(&seed)?);
        let (written, made) = both(
            || {
                write_encrypted(
                    &self.0.join("admission.key"),
                    SecretKind::AdmissionKey,
                    seed.expose_secret(),
                    passphrase,
                )
            },
            || NewKeys::make(&self.0, passphrase),
        );
        written?;
        let (_, secret) = made?;
        files::create(
            &self.0.join("admission.cert.json"),
            certificate.encode(&owner.public_key()).as_bytes(),
        )?;
        let progress = Zeroizing::new(serde_json::to_vec(&new_progress()?)?);
        files::replace_secret(&self.progress_file(), &progress)?;
        // By rename, and the folder fsynced: with this file the others are durable, too.
        documents::replace(&self.state_file(), &State::new(plan))?;
        Ok((secret, seed))
    }

    fn read(&self, passphrase: &Passphrase) -> Result<(MasterSecret, Seed)> {
        let (seed, secret) = both(
            || {
                secret_file::read_encrypted(
                    &self.0.join("admission.key"),
                    SecretKind::AdmissionKey,
                    passphrase,
                    Seed::from_slice,
                )
            },
            || {
                secret_file::read_encrypted(
                    &self.0.join("master-secret.key"),
                    SecretKind::MasterSecret,
                    passphrase,
                    MasterSecret::from_slice,
                )
            },
        );
        Ok((secret?, seed?))
    }

    fn secrets(&self, owner: &OwnerKey, secret: MasterSecret, seed: &Seed) -> Result<Secrets> {
        let file = ClusterFile::read(&self.0.join("cluster.json"))?;
        let [salt, measurement_salt] = file.salts().map(ToOwned::to_owned);
        let cluster = ClusterMaterial {
            cluster_id: file.cluster_id(),
            key_version: file.key_version(),
            salt,
            measurement_salt,
            master_secret: SecretText::new(hex::encode(secret.expose_secret())),
        };
        Ok(Secrets {
            keys: Arc::new(file.hierarchy(secret)?),
            cluster,
            admission: self.admission(owner, seed)?,
        })
    }

    fn admission(&self, owner: &OwnerKey, seed: &Seed) -> Result<AdmissionMaterial> {
        let certificate = files::read_text(&self.0.join("admission.cert.json"))?;
        let (certified_by, _) = AdmissionKeyCertificate::parse(certificate.as_bytes())
            .context("read `admission.cert.json`")?;
        if certified_by != owner.public_key() {
            return Err(anyhow!("this folder is of another owner")).hint(
                "give the owner key that it was made with, or another folder for another cluster",
            );
        }
        Ok(AdmissionMaterial {
            owner: owner.public_key().fingerprint().to_string(),
            seed: SecretText::new(hex::encode(seed.expose_secret())),
            certificate,
        })
    }
}

fn read_state(path: &Path, plan: &Plan) -> Result<State> {
    let state: State = documents::read(path)?;
    if state.version != 1 {
        bail!("`{}`: unknown version {}", path.display(), state.version);
    }
    if state.plan != *plan {
        let (was, is) = (
            serde_json::to_string(&state.plan)?,
            serde_json::to_string(plan)?,
        );
        return Err(anyhow!(
            "`{}` is for another cluster than the one asked for: {was}, not {is}",
            path.display()
        ))
        .hint("repeat the arguments of the first run, or name another folder");
    }
    Ok(state)
}

fn new_progress() -> Result<Progress> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let (server_certificate, server_key) = self_signed(BOOTSTRAPPER, ServerAuth)?;
    let (client_certificate, client_key) = self_signed("operator", ClientAuth)?;
    Ok(Progress {
        bootstrapper: ProgressMaterial {
            server_certificate,
            server_key,
            client_certificate,
        },
        client_key,
    })
}

/// A certificate that its peer pins; validity stays rcgen's default, 1975 to 4096.
fn self_signed(name: &str, usage: ExtendedKeyUsagePurpose) -> Result<(String, SecretText)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), SecretText::new(key.serialize_pem())))
}
