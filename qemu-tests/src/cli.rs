//! The operator's command line, as an operator calls it: one small function a verb.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::run;
use crate::workspace::program;

/// The `constellation` program with one owner's files.
#[derive(Clone, Debug)]
pub struct Cli {
    program: PathBuf,
    passphrase: PathBuf,
    dir: PathBuf,
}

/// The documents that the owner has signed.
#[derive(Clone, Debug)]
pub struct Documents {
    /// The appraisal policy.
    pub policy: PathBuf,
    /// What the images measure.
    pub reference_values: PathBuf,
}

/// What `node adopt` is told.
#[derive(Clone, Copy, Debug)]
pub struct Adoption<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The disk's uuid.
    pub disk: &'a str,
    /// The machine that may unlock it.
    pub attester: &'a str,
    /// The oldest generation to accept.
    pub generation: &'a str,
}

/// What a direct boot of an SNP guest is measured from.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The firmware.
    pub firmware: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
    /// The initial RAM disk.
    pub initrd: &'a Path,
    /// A file with the kernel's command line.
    pub cmdline: &'a Path,
}

impl Cli {
    /// Keeps the owner's files in `dir`; the passphrase of its secrets is made here.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let passphrase = dir.join("passphrase");
        fs::write(&passphrase, "a passphrase for one run of the tests\n")?;
        Ok(Self {
            program: program("constellation")?,
            passphrase,
            dir: dir.to_owned(),
        })
    }

    /// A file of the owner.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `owner new`: `owner.key` and `owner.pub`.
    pub fn owner_new(&self) -> Result<Value> {
        self.json(
            self.command(&["owner", "new"])
                .arg("--out")
                .arg(&self.dir)
                .args(self.passphrase()),
        )
    }

    /// `owner certify`: `admission.key` and `admission.cert.json`.
    pub fn owner_certify(&self) -> Result<Value> {
        let mut command = self.command(&["owner", "certify"]);
        command.arg("--owner-key").arg(self.file("owner.key"));
        self.json(command.arg("--out").arg(&self.dir).args(self.passphrase()))
    }

    /// `keys new`: `master-secret.key` and `cluster.json`.
    pub fn keys_new(&self) -> Result<Value> {
        self.json(
            self.command(&["keys", "new"])
                .arg("--out")
                .arg(&self.dir)
                .args(self.passphrase()),
        )
    }

    /// `keys audit`: `audit.key` and `audit.pub` in a folder of their own.
    pub fn keys_audit(&self, out: &Path) -> Result<Value> {
        self.json(self.command(&["keys", "audit"]).arg("--out").arg(out))
    }

    /// `pki new`: the services' certificates.
    pub fn pki_new(&self, out: &Path) -> Result<Value> {
        self.json(self.command(&["pki", "new"]).arg("--out").arg(out))
    }

    /// `image own`: this owner's copy of an image.
    pub fn image_own(&self, uki: &Path, out: &Path) -> Result<Value> {
        let mut command = self.command(&["image", "own"]);
        command.arg(uki).arg("--owner").arg(self.file("owner.pub"));
        self.json(command.arg("--out").arg(out))
    }

    /// `measure`: the PCR values of an image's boot on a firmware, by its event log.
    pub fn measure(&self, uki: &Path, event_log: &Path) -> Result<Value> {
        let mut command = self.command(&["measure"]);
        self.json(command.arg(uki).arg("--event-log").arg(event_log))
    }

    /// `measure --sev-snp`: the launch measurement of a direct boot.
    pub fn measure_launch(
        &self,
        launch: &Launch<'_>,
        vcpus: u32,
        vcpu_type: &str,
    ) -> Result<Value> {
        let mut command = self.command(&["measure", "--sev-snp"]);
        let files = [
            ("--firmware", launch.firmware),
            ("--kernel", launch.kernel),
            ("--initrd", launch.initrd),
            ("--cmdline", launch.cmdline),
        ];
        for (flag, file) in files {
            command.arg(flag).arg(file);
        }
        command.args(["--vcpus", &vcpus.to_string(), "--vcpu-type", vcpu_type]);
        self.json(&mut command)
    }

    /// `policy new`: accept the TPMs of an authority.
    pub fn policy_new(&self, document: &Path, root: &Path, issuer: &Path) -> Result<Value> {
        let mut command = self.command(&["policy", "new"]);
        command.arg(document).arg("--bound-ek-ca").arg(root);
        self.json(command.arg("--ek-intermediate").arg(issuer))
    }

    /// `policy sign`: the appraisal policy, signed by the owner.
    pub fn policy_sign(&self, document: &Path, out: &Path) -> Result<Value> {
        let mut command = self.command(&["policy", "sign"]);
        self.sign(command.arg(document), out)
    }

    /// `reference-values add`: one image with its measurements, as `measure` printed them.
    pub fn reference_values_add(
        &self,
        document: &Path,
        image: &str,
        roles: &[&str],
        measurements: &Path,
    ) -> Result<Value> {
        let mut command = self.command(&["reference-values", "add"]);
        command.arg(document).args(["--image", image]);
        for role in roles {
            command.args(["--role", role]);
        }
        self.json(command.arg("--measurements").arg(measurements))
    }

    /// `reference-values sign`: the document for the join service, signed by the owner.
    pub fn reference_values_sign(&self, document: &Path, out: &Path) -> Result<Value> {
        let mut command = self.command(&["reference-values", "sign"]);
        self.sign(command.arg(document), out)
    }

    /// `node list`: all records, as `recover` reads them too.
    pub fn node_list(&self, socket: &Path) -> Result<Value> {
        self.node(socket, &["list"])
    }

    /// `node forget`: the disk id is dead, the name is free.
    pub fn node_forget(&self, socket: &Path, name: &str) -> Result<Value> {
        self.node(socket, &["forget", name])
    }

    /// `node show`: the records of one node.
    pub fn node_show(&self, socket: &Path, name: &str) -> Result<Value> {
        self.node(socket, &["show", name])
    }

    /// `node adopt`: a record for a worker's disk that has none.
    pub fn node_adopt(&self, socket: &Path, adoption: &Adoption<'_>) -> Result<Value> {
        let mut words = vec!["adopt", "--role", "worker", "--node", adoption.node];
        words.extend(["--disk", adoption.disk, "--attester", adoption.attester]);
        words.extend(["--generation", adoption.generation]);
        self.node(socket, &words)
    }

    /// `node rebind`: another machine may unlock the disk.
    pub fn node_rebind(&self, socket: &Path, disk: &str, attester: &str) -> Result<Value> {
        self.node(socket, &["rebind", "--disk", disk, "--attester", attester])
    }

    /// `node accept-generation`: the disk is accepted from there on.
    pub fn node_accept_generation(
        &self,
        socket: &Path,
        disk: &str,
        generation: &str,
    ) -> Result<Value> {
        let words = [
            "accept-generation",
            "--disk",
            disk,
            "--generation",
            generation,
        ];
        self.node(socket, &words)
    }

    /// `node backup`: a copy of the store.
    pub fn node_backup(&self, socket: &Path, out: &Path) -> Result<Value> {
        let mut command = self.command(&["node", "backup"]);
        command.arg("--socket").arg(socket);
        self.json(command.arg("--out").arg(out))
    }

    /// `node audit-head`: the head of the join service's audit log.
    pub fn node_audit_head(&self, socket: &Path) -> Result<Value> {
        self.node(socket, &["audit-head"])
    }

    /// `recover`: unlocks a node that waits, without the services. `records` is what
    /// [`Cli::node_list`] said when the join service still ran.
    pub fn recover(&self, agent: &str, records: &Path, documents: &Documents) -> Result<Value> {
        let mut command = self.command(&["recover", agent]);
        command.arg("--records").arg(records);
        command.arg("--owner-key").arg(self.file("owner.key"));
        command
            .arg("--master-secret")
            .arg(self.file("master-secret.key"));
        command.arg("--cluster").arg(self.file("cluster.json"));
        command.arg("--policy").arg(&documents.policy);
        command
            .arg("--reference-values")
            .arg(&documents.reference_values);
        self.json(command.args(self.passphrase()))
    }

    /// `audit verify` against the heads in a file, which it writes anew.
    pub fn audit_verify(&self, log: &Path, key: &Path, heads: &Path) -> Result<Value> {
        let mut command = self.command(&["audit", "verify"]);
        command.arg(log).arg("--key").arg(key);
        self.json(command.arg("--heads").arg(heads))
    }

    /// The program itself, for other verbs.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The passphrase file, for services that read the same secrets.
    pub fn passphrase_file(&self) -> &Path {
        &self.passphrase
    }

    fn node(&self, socket: &Path, words: &[&str]) -> Result<Value> {
        let mut command = self.command(&["node"]);
        self.json(command.args(words).arg("--socket").arg(socket))
    }

    fn sign(&self, command: &mut Command, out: &Path) -> Result<Value> {
        command.arg("--owner-key").arg(self.file("owner.key"));
        self.json(command.arg("--out").arg(out).args(self.passphrase()))
    }

    fn passphrase(&self) -> [&std::ffi::OsStr; 2] {
        ["--passphrase-file".as_ref(), self.passphrase.as_os_str()]
    }

    fn command(&self, verbs: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--output", "json"]).args(verbs);
        command
    }

    fn json(&self, command: &mut Command) -> Result<Value> {
        let answer = run(command)?;
        serde_json::from_str(&answer).with_context(|| format!("{command:?} said {answer:?}"))
    }
}
