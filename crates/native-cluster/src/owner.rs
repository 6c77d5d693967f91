//! The owner's machine: keys and documents, made by the command line.

use crate::tpm::{IMAGE, TpmAuthority, reference_pcrs};
use anyhow::{Context as _, Result};
use qemu_tests::{Cli, Documents, program};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// An owner and what it signed.
#[derive(Debug)]
pub struct Owner {
    cli: Cli,
    folder: PathBuf,
    fingerprint: String,
    documents: Documents,
}

impl Owner {
    /// Makes an owner whose policy accepts the authority's TPMs, and images like the nodes'.
    ///
    /// # Errors
    /// If the command line fails.
    pub fn new(folder: &Path, authority: &TpmAuthority) -> Result<Self> {
        let cli = Cli::new(folder)?;
        let made = cli.owner_new()?;
        let fingerprint = made["fingerprint"].as_str().context("a fingerprint")?;
        let owner = Self {
            fingerprint: fingerprint.to_owned(),
            documents: Documents {
                policy: folder.join("policy.signed.json"),
                reference_values: folder.join("reference-values.signed.json"),
            },
            folder: folder.to_owned(),
            cli,
        };
        owner.sign(authority)?;
        Ok(owner)
    }

    /// Signs reference values for `image` alone, in the place of those that the cluster was made with.
    ///
    /// # Errors
    /// If the command line fails.
    pub fn accept_only(&self, image: &str) -> Result<()> {
        let values = json!({"version": 1, "serial": 1, "images": [{
            "name": image,
            "roles": ["control-plane", "worker"],
            "pcrs": reference_pcrs(image),
        }]});
        let unsigned = self.folder.join("reference-values.json");
        fs::write(&unsigned, values.to_string())?;
        let signed = &self.documents.reference_values;
        drop(fs::remove_file(signed));
        self.cli.reference_values_sign(&unsigned, signed).map(drop)
    }

    /// Measures `image`, as `constellation measure` does an image on a disk, and gives the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn measure(&self, image: &str) -> Result<PathBuf> {
        let file = self.folder.join(format!("{image}.measured.json"));
        let measured = json!({"pcrs": reference_pcrs(image)});
        fs::write(&file, measured.to_string())?;
        Ok(file)
    }

    /// Adds the signed reference values alone, for verbs that sign the next ones.
    pub fn amend(&self, command: &mut Command) {
        self.act(command);
        command
            .arg("--reference-values")
            .arg(&self.documents.reference_values);
    }

    fn sign(&self, authority: &TpmAuthority) -> Result<()> {
        let [root, issuer] = authority.certificates()?;
        let file = |name: &str| self.folder.join(name);
        fs::write(file("ek-root.pem"), root)?;
        fs::write(file("ek-issuer.pem"), issuer)?;
        let policy = file("policy.json");
        self.cli
            .policy_new(&policy, &file("ek-root.pem"), &file("ek-issuer.pem"))?;
        self.cli.policy_sign(&policy, &self.documents.policy)?;
        self.accept_only(IMAGE)
    }

    /// The fingerprint that the nodes' images carry.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The folder of the cluster, once it is made.
    #[must_use]
    pub fn workspace(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    /// The administrator's kubeconfig, once the cluster is made.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.workspace().join("kubeconfig")
    }

    /// Adds the flags by which a verb judges evidence.
    pub fn judge(&self, command: &mut Command) {
        command.arg("--policy").arg(&self.documents.policy);
        command
            .arg("--reference-values")
            .arg(&self.documents.reference_values);
    }

    /// Adds the owner key and the passphrase of it.
    pub fn act(&self, command: &mut Command) {
        command.arg("--owner-key").arg(self.cli.file("owner.key"));
        command
            .arg("--passphrase-file")
            .arg(self.cli.passphrase_file());
    }

    /// Adds the owner's public key and the cluster's parameters.
    pub fn know(&self, command: &mut Command) {
        command.arg("--owner").arg(self.cli.file("owner.pub"));
        command
            .arg("--cluster")
            .arg(self.workspace().join("cluster.json"));
    }

    /// Adds what unlocks nodes without their services.
    pub fn recover(&self, command: &mut Command) {
        let file = |name: &str| self.workspace().join(name);
        command.arg("--records").arg(file("nodes.json"));
        command
            .arg("--master-secret")
            .arg(file("master-secret.key"));
        command.arg("--cluster").arg(file("cluster.json"));
    }

    /// The program itself, for whoever starts it in the network of the nodes.
    ///
    /// # Errors
    /// If it is not built.
    pub fn program() -> Result<PathBuf> {
        program("constellation")
    }

    /// What a verb printed with `--output json`.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(answer: &str) -> Result<Value> {
        serde_json::from_str(answer).with_context(|| format!("`{answer}` is no JSON"))
    }
}
