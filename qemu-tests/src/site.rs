//! One owner's installation on loopback: keys, certificates, signed documents, both services.
//!
//! Everything is made by the programs that users run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::machine::GUEST_JOIN_SERVICE;
use crate::service::Service;
use crate::swtpm::TpmAuthority;
use crate::workspace::{Workspace, free_port};

/// What every policy must list at least (`docs/formats.md`).
pub(crate) const PCRS: [u32; 10] = [0, 2, 3, 4, 7, 9, 11, 12, 13, 15];

/// An installation.
#[derive(Debug)]
pub struct Site {
    /// The operator's command line with the owner's files.
    pub cli: Cli,
    /// Holds the master secret.
    pub key_service: Service,
    /// Admits nodes.
    pub join_service: Service,
    /// The owner's fingerprint, as on measured command lines.
    pub owner: String,
    dir: PathBuf,
    join_port: u16,
    serial: u64,
}

impl Site {
    /// Makes an owner, the secrets, the services' certificates and configurations. Nothing runs
    /// yet: the join service needs a policy and reference values first.
    pub fn create(workspace: &Workspace) -> Result<Self> {
        let dir = workspace.subdir("site")?;
        let cli = Cli::new(&dir.join("owner"))?;
        let owner = cli.owner_new()?;
        let owner = owner["fingerprint"]
            .as_str()
            .context("`owner new` names no fingerprint")?;
        cli.owner_certify()?;
        cli.keys_new()?;
        cli.pki_new(&dir.join("pki"))?;
        for service in ["key-service", "join-service"] {
            cli.keys_audit(&dir.join(format!("{service}-audit-key")))?;
            fs::create_dir_all(dir.join(format!("{service}-audit")))?;
        }
        let layout = Layout::new(&dir, &cli)?;
        let key_service =
            layout.service("key-service", &layout.key_service()?, layout.key_admin)?;
        let join_service =
            layout.service("join-service", &layout.join_service(), layout.join_admin)?;
        Ok(Self {
            join_port: layout.join_port,
            owner: owner.to_owned(),
            cli,
            key_service,
            join_service,
            dir,
            serial: 0,
        })
    }

    /// Declares whose TPMs the policy accepts.
    pub fn trust(&mut self, authority: &TpmAuthority) -> Result<()> {
        let policy = json!({
            "version": 1,
            "serial": self.next_serial(),
            "evidence": ["tpm"],
            "tpm": {
                "pcrs": PCRS,
                "ek_authorities": [{"certificate": authority.root_pem()?, "bound_to_platform": true}],
                "ek_intermediates": [authority.issuer_pem()?],
            },
        });
        let document = self.dir.join("policy.json");
        fs::write(&document, policy.to_string())?;
        self.cli.policy_sign(&document, &self.policy())?;
        Ok(())
    }

    /// Adds an image with its measurements to the reference values and signs them anew.
    pub fn accept_image(&mut self, name: &str, measurements: &Value) -> Result<()> {
        let file = self.dir.join(format!("{name}.measurements.json"));
        fs::write(&file, measurements.to_string())?;
        let document = self.dir.join("reference-values.json");
        self.cli.reference_values_add(&document, name, &file)?;
        self.cli
            .reference_values_sign(&document, &self.reference_values())?;
        Ok(())
    }

    /// Starts both services and waits until they are ready.
    pub fn start(&mut self) -> Result<()> {
        self.key_service.start()?;
        self.join_service.start()
    }

    /// Stops both services.
    pub fn stop(&mut self) -> Result<()> {
        self.join_service.stop()?;
        self.key_service.stop()
    }

    /// The signed policy.
    pub fn policy(&self) -> PathBuf {
        self.dir.join("policy.signed.json")
    }

    /// The signed reference values.
    pub fn reference_values(&self) -> PathBuf {
        self.dir.join("reference-values.signed.json")
    }

    /// The join service's socket for the operator.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("join-service.sock")
    }

    /// The forward that lets a machine reach the join service.
    pub fn forward(&self) -> (String, u16) {
        (GUEST_JOIN_SERVICE.to_owned(), self.join_port)
    }

    /// Hints that lead a worker here.
    pub fn hints(&self, node_name: &str) -> String {
        let hints = json!({
            "endpoints": [GUEST_JOIN_SERVICE],
            "node_name": node_name,
            "role": "worker",
        });
        hints.to_string()
    }

    /// The folder with everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

/// Where things are, for the configuration files.
struct Layout<'a> {
    dir: &'a Path,
    cli: &'a Cli,
    key_port: u16,
    key_admin: u16,
    join_port: u16,
    join_admin: u16,
}

impl<'a> Layout<'a> {
    fn new(dir: &'a Path, cli: &'a Cli) -> Result<Self> {
        Ok(Self {
            dir,
            cli,
            key_port: free_port()?,
            key_admin: free_port()?,
            join_port: free_port()?,
            join_admin: free_port()?,
        })
    }

    fn service(&self, name: &str, config: &str, admin_port: u16) -> Result<Service> {
        Service::new(name, self.dir, config, admin_port)
    }

    fn key_service(&self) -> Result<String> {
        let cluster = fs::read_to_string(self.cli.file("cluster.json"))?;
        let cluster: Value = serde_json::from_str(&cluster)?;
        let salt = cluster["salt"]
            .as_str()
            .context("cluster.json has no salt")?;
        let version = &cluster["key_version"];
        Ok(format!(
            r#"listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
drain_seconds = 5
replica = "key-service-0"
{tls}
[[key]]
version = {version}
salt = "{salt}"
secret = {{ encrypted = {{ path = "{secret}", passphrase = "{passphrase}" }} }}

[[caller]]
name = "dns:join-service"
classes = ["state-disk"]
{audit}"#,
            port = self.key_port,
            admin = self.key_admin,
            tls = self.tls("key-service"),
            secret = self.cli.file("master-secret.key").display(),
            passphrase = self.cli.passphrase_file().display(),
            audit = self.audit("key-service"),
        ))
    }

    fn join_service(&self) -> String {
        format!(
            r#"listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
operator_socket = "{dir}/join-service.sock"
drain_seconds = 5
replica = "join-service-0"
store = "{dir}/join-service.redb"
policy = "{dir}/policy.signed.json"
reference_values = "{dir}/reference-values.signed.json"
{audit}"#,
            port = self.join_port,
            admin = self.join_admin,
            dir = self.dir.display(),
            audit = self.audit("join-service"),
        )
    }

    fn tls(&self, service: &str) -> String {
        let pki = self.dir.join("pki");
        let pki = pki.display();
        format!(
            "[tls]\ncertificate = \"{pki}/{service}.pem\"\nprivate_key = \"{pki}/{service}.key\"\npeer_ca = \"{pki}/ca.pem\"\n"
        )
    }

    fn audit(&self, service: &str) -> String {
        let dir = self.dir.display();
        format!(
            "\n[audit]\ndirectory = \"{dir}/{service}-audit\"\nkey = {{ credential = {{ path = \"{dir}/{service}-audit-key/audit.key\" }} }}\n"
        )
    }
}
