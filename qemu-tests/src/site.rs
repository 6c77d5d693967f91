//! One owner's installation on loopback: keys, certificates, signed documents, both services.
//!
//! Everything is made by the programs that users run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Cli, Documents};
use crate::lent::{self, LentOwner};
use crate::machine::GUEST_JOIN_SERVICE;
use crate::service::Service;
use crate::workspace::{Workspace, free_port};
use vm::TpmAuthority;

/// What every policy must list at least (`docs/formats.md`).
pub(crate) const PCRS: [u32; 10] = [0, 2, 3, 4, 7, 9, 11, 12, 13, 15];

/// The join service's store.
const STORE: &str = "join-service.redb";

/// The folder of a workspace's first installation.
const SITE: &str = "site";

/// An installation.
#[derive(Debug)]
pub struct Site {
    /// The operator's command line with the owner's files.
    pub cli: Cli,
    /// Holds the master secret.
    pub key_service: Service,
    /// Admits nodes.
    pub join_service: Service,
    /// What the owner has signed for the services.
    pub documents: Documents,
    /// The owner's fingerprint, as on measured command lines.
    pub owner: String,
    dir: PathBuf,
    run: TempDir,
    join_port: u16,
    /// The right to an owner that was lent; none if it was made for this installation.
    lent: Option<LentOwner>,
}

impl Site {
    /// Makes an owner, the secrets, the services' certificates and configurations. Nothing runs
    /// yet: the join service needs a policy and reference values first.
    pub fn create(workspace: &Workspace) -> Result<Self> {
        let cli = Cli::new(&owner_dir(workspace, SITE)?)?;
        let owner = lent::make(&cli)?;
        Self::of(workspace, SITE, cli, owner, None)
    }

    /// The same with an owner and secrets that were made before; no other installation has them at
    /// the same time.
    pub fn borrow(workspace: &Workspace) -> Result<Self> {
        Self::borrow_in(workspace, SITE)
    }

    /// The same in a subfolder of this name, for a second, foreign installation.
    pub fn borrow_in(workspace: &Workspace, name: &str) -> Result<Self> {
        let cli = Cli::new(&owner_dir(workspace, name)?)?;
        let (lent, owner) = lent::borrow(&cli)?;
        Self::of(workspace, name, cli, owner, Some(lent))
    }

    fn of(
        workspace: &Workspace,
        name: &str,
        cli: Cli,
        owner: String,
        lent: Option<LentOwner>,
    ) -> Result<Self> {
        let dir = workspace.subdir(name)?;
        cli.pki_new(&dir.join("pki"))?;
        for service in ["key-service", "join-service"] {
            cli.keys_audit(&dir.join(format!("{service}-audit-key")))?;
            fs::create_dir_all(dir.join(format!("{service}-audit")))?;
        }
        // Unix socket paths are at most 107 bytes, so the socket is not in the workspace.
        let run = tempfile::tempdir()?;
        let layout = Layout::new(&dir, &cli, run.path())?;
        let cluster = fs::read_to_string(cli.file("cluster.json"))?;
        let cluster: Value = serde_json::from_str(&cluster)?;
        let config = layout.key_service(&cluster)?;
        let key_service = Service::new("key-service", &dir, &config, layout.key_admin)?;
        let config = layout.join_service(&owner, &cluster);
        let join_service = Service::new("join-service", &dir, &config, layout.join_admin)?;
        Ok(Self {
            join_port: layout.join_port,
            owner,
            documents: Documents {
                policy: dir.join("policy.signed.json"),
                reference_values: dir.join("reference-values.signed.json"),
            },
            cli,
            key_service,
            join_service,
            dir,
            run,
            lent,
        })
    }

    /// Declares whose TPMs the policy accepts.
    pub fn trust(&self, authority: &TpmAuthority) -> Result<()> {
        self.trust_roots(&authority.root(), &authority.issuer())
    }

    /// The same for any authority: the files of its root and of its issuing certificate, PEM.
    pub fn trust_roots(&self, root: &Path, issuer: &Path) -> Result<()> {
        let document = self.dir.join("policy.json");
        self.cli.policy_new(&document, root, issuer)?;
        self.cli.policy_sign(&document, &self.documents.policy)?;
        Ok(())
    }

    /// Signs any other policy.
    pub fn declare_policy(&self, policy: &Value) -> Result<()> {
        let document = self.dir.join("policy.json");
        fs::write(&document, policy.to_string())?;
        self.cli.policy_sign(&document, &self.documents.policy)?;
        Ok(())
    }

    /// Signs any other reference values.
    pub fn declare_images(&self, images: &Value) -> Result<()> {
        let document = self.dir.join("reference-values.json");
        let values = json!({"version": 1, "serial": 1, "images": images});
        fs::write(&document, values.to_string())?;
        self.cli
            .reference_values_sign(&document, &self.documents.reference_values)?;
        Ok(())
    }

    /// Lets the join service look for certificates of report keys there: a server in the place of
    /// AMD's.
    pub fn fetch_endorsements(&self, port: u16) -> Result<()> {
        let folder = self.dir.join("endorsements");
        let folder = folder.display();
        self.join_service.configure(&format!(
            "[endorsements]\nfolder = \"{folder}\"\nkds = \"http://127.0.0.1:{port}\"\n"
        ))
    }

    /// Adds an image with its measurements to the reference values and signs them anew.
    pub fn accept_image(&self, name: &str, measurements: &Value) -> Result<()> {
        let file = self.dir.join(format!("{name}.measurements.json"));
        fs::write(&file, measurements.to_string())?;
        let document = self.dir.join("reference-values.json");
        self.cli
            .reference_values_add(&document, name, &["worker"], &file)?;
        self.cli
            .reference_values_sign(&document, &self.documents.reference_values)?;
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

    /// Ends both services at once.
    pub fn kill(&mut self) -> Result<()> {
        self.join_service.kill()?;
        self.key_service.kill()
    }

    /// The same installation on a new host, in a subfolder of this name, after this one burnt down with
    /// all that was on it (`docs/recover.md`). Kept elsewhere were the owner key, the master secret, the
    /// signed documents and `backup`, a copy of the store.
    pub fn restore(&mut self, workspace: &Workspace, name: &str, backup: &Path) -> Result<()> {
        self.kill()?;
        let cli = Cli::new(&owner_dir(workspace, name)?)?;
        for file in [
            "owner.key",
            "owner.pub",
            "master-secret.key",
            "cluster.json",
        ] {
            fs::copy(self.cli.file(file), cli.file(file))?;
        }
        cli.owner_certify()?;
        let mut restored = Self::of(workspace, name, cli, self.owner.clone(), None)?;
        let (old, new) = (&self.documents, &restored.documents);
        fs::copy(&old.policy, &new.policy)?;
        fs::copy(&old.reference_values, &new.reference_values)?;
        fs::copy(backup, restored.dir.join(STORE))?;
        restored.lent = self.lent.take();
        fs::remove_dir_all(&self.dir)?;
        *self = restored;
        Ok(())
    }

    /// Keeps a copy of the node records, for a time without services.
    pub fn save_records(&self) -> Result<PathBuf> {
        let path = self.dir.join("records.json");
        let records = self.cli.node_list(&self.admin_socket())?;
        fs::write(&path, records.to_string())?;
        Ok(path)
    }

    /// Unlocks a node that waits behind this loopback port.
    pub fn recover(&self, push_port: u16, records: &Path) -> Result<Value> {
        let agent = format!("127.0.0.1:{push_port}");
        self.cli.recover(&agent, records, &self.documents)
    }

    /// The join service's socket for the operator.
    pub fn admin_socket(&self) -> PathBuf {
        self.run.path().join("operator.sock")
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

    /// The first file of a service's audit log, and the public key of its checkpoints.
    pub fn audit_log(&self, service: &str) -> (PathBuf, PathBuf) {
        let log = self.dir.join(format!("{service}-audit"));
        let key = self.dir.join(format!("{service}-audit-key"));
        (log.join("audit.00000001.jsonl"), key.join("audit.pub"))
    }

    /// The folder with everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Where the owner's files of an installation are.
fn owner_dir(workspace: &Workspace, site: &str) -> Result<PathBuf> {
    Ok(workspace.subdir(site)?.join("owner"))
}

/// Where things are, for the configuration files.
struct Layout<'a> {
    dir: &'a Path,
    run: &'a Path,
    cli: &'a Cli,
    key_port: u16,
    key_admin: u16,
    join_port: u16,
    join_admin: u16,
}

impl<'a> Layout<'a> {
    fn new(dir: &'a Path, cli: &'a Cli, run: &'a Path) -> Result<Self> {
        Ok(Self {
            dir,
            run,
            cli,
            key_port: free_port()?,
            key_admin: free_port()?,
            join_port: free_port()?,
            join_admin: free_port()?,
        })
    }

    fn key_service(&self, cluster: &Value) -> Result<String> {
        let salt = cluster["salt"]
            .as_str()
            .context("cluster.json has no salt")?;
        Ok(format!(
            r#"listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
drain_seconds = 5
replica = "key-service-0"

[tls]
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
            version = cluster["key_version"],
            secret = self.cli.file("master-secret.key").display(),
            passphrase = self.cli.passphrase_file().display(),
            audit = self.audit("key-service"),
        ))
    }

    fn join_service(&self, owner: &str, cluster: &Value) -> String {
        format!(
            r#"listen = "127.0.0.1:{port}"
admin_listen = "127.0.0.1:{admin}"
operator_socket = "{run}/operator.sock"
drain_seconds = 5
replica = "join-service-0"
cluster_id = {cluster_id}
owner = "{owner}"
key_version = {version}

[admission_key]
secret = {{ credential = {{ path = "{admission}.key" }} }}
certificate = "{admission}.cert.json"

[documents]
policy = "{dir}/policy.signed.json"
reference_values = "{dir}/reference-values.signed.json"

[store]
kind = "file"
path = "{dir}/{STORE}"

[key_service]
address = "127.0.0.1:{key_port}"
server_name = "key-service"
timeout_seconds = 5

[key_service.tls]
{tls}
{audit}"#,
            port = self.join_port,
            admin = self.join_admin,
            run = self.run.display(),
            dir = self.dir.display(),
            cluster_id = cluster["cluster_id"],
            version = cluster["key_version"],
            admission = self.cli.file("admission").display(),
            key_port = self.key_port,
            tls = self.tls("join-service"),
            audit = self.audit("join-service"),
        )
    }

    fn tls(&self, service: &str) -> String {
        let pki = self.dir.join("pki");
        let pki = pki.display();
        format!(
            "certificate = \"{pki}/{service}.pem\"\nprivate_key = \"{pki}/{service}.key\"\npeer_ca = \"{pki}/ca.pem\"\n"
        )
    }

    /// Two files of the default size for each service would be 256 MiB for a few lines.
    fn audit(&self, service: &str) -> String {
        let dir = self.dir.display();
        format!(
            "[audit]\ndirectory = \"{dir}/{service}-audit\"\nfile_mebibytes = 1\nkey = {{ credential = {{ path = \"{dir}/{service}-audit-key/audit.key\" }} }}\n"
        )
    }
}
