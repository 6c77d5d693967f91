//! The services' secrets as systemd credentials bound to a TPM (docs/install.md, "Service host"), made and opened
//! by the system's own `systemd-creds`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use child_process::{Process, contained, run};
use qemu_tests::{Site, TpmAuthority, Workspace};
use serde_json::json;

/// A program that is to listen does so at once.
const LISTEN: Duration = Duration::from_secs(10);

#[test]
fn services_start_from_credentials_that_one_tpm_opens() -> Result<()> {
    let workspace = Workspace::create("credentials")?;
    let ours = HostTpm::new(workspace.file("our-host"))?;
    let other = HostTpm::new(workspace.file("other-host"))?;
    let mut site = Site::create(&workspace)?;
    site.trust(&TpmAuthority::create(&workspace.file("tpm-ca"))?)?;
    let zero = [hex::encode([0; 32])];
    let pcrs: serde_json::Map<_, _> = appraisal::REQUIRED_PCRS
        .iter()
        .map(|pcr| (pcr.to_string(), json!(zero)))
        .collect();
    site.accept_image("none", &json!({ "pcrs": pcrs }))?;

    let secrets = secrets(&site);
    for (name, plain) in &secrets {
        let sealed = workspace.file(name);
        ours.encrypt(name, plain, &sealed)?;
        fs::remove_file(plain)?;
    }
    for (name, plain) in &secrets {
        let sealed = workspace.file(name);
        ensure!(
            other.decrypt(name, &sealed, plain).is_err() && !plain.exists(),
            "another TPM opens `{name}`"
        );
        let another = if name == "admission-key" {
            "join-audit-key"
        } else {
            "admission-key"
        };
        ensure!(
            ours.decrypt(another, &sealed, plain).is_err() && !plain.exists(),
            "`{name}` passes for `{another}`"
        );
        ours.decrypt(name, &sealed, plain)?;
    }
    // Both answer `/readyz`: the join service reaches the key service, which has opened the master secret.
    site.start()?;
    site.stop()?;
    workspace.passed()
}

/// What docs/install.md makes a credential of, and where this installation's configurations expect it.
fn secrets(site: &Site) -> Vec<(String, PathBuf)> {
    let file = |path: &str| site.dir().join(path);
    [
        ("admission-key", site.cli.file("admission.key")),
        ("join-audit-key", file("join-service-audit-key/audit.key")),
        ("join-service-tls", file("pki/join-service.key")),
        ("key-audit-key", file("key-service-audit-key/audit.key")),
        ("key-service-tls", file("pki/key-service.key")),
        ("master-passphrase", site.cli.passphrase_file().to_owned()),
    ]
    .map(|(name, path)| (name.to_owned(), path))
    .into()
}

/// The TPM of a service host. Here it has power for one command at a time; on a host the kernel's resource manager
/// (`/dev/tpmrm0`) takes back what a program leaves in it.
struct HostTpm {
    dir: PathBuf,
}

impl HostTpm {
    fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn encrypt(&self, name: &str, plain: &Path, sealed: &Path) -> Result<()> {
        self.creds(name, &["encrypt", "--with-key=tpm2"], [plain, sealed])
    }

    fn decrypt(&self, name: &str, sealed: &Path, plain: &Path) -> Result<()> {
        self.creds(name, &["decrypt"], [sealed, plain])
    }

    fn creds(&self, name: &str, verb: &[&str], files: [&Path; 2]) -> Result<()> {
        let (_swtpm, port) = self.power()?;
        let mut command = Command::new("systemd-creds");
        command.args(verb).arg(format!("--name={name}"));
        let tcti = format!("swtpm:host=127.0.0.1,port={port}");
        command.arg(format!("--tpm2-device={tcti}"));
        let done = run(command.args(files)).map(drop);
        // A TPM that loses its power without a word suspects a guesser, and locks itself after a few times.
        let mut shutdown = Command::new("tpm2_shutdown");
        run(shutdown.args(["--clear", "--tcti", &tcti]))?;
        done
    }

    /// Gives the port of the TPM's commands. TPM libraries expect its control channel at the next one.
    fn power(&self) -> Result<(Process, u16)> {
        let port = free_pair()?;
        let channel = |port: u16| format!("type=tcp,bindaddr=127.0.0.1,port={port}");
        let mut command = contained("swtpm");
        command.args(["socket", "--tpm2", "--flags", "startup-clear"]);
        let state = format!("dir={}", self.dir.display());
        command.args(["--tpmstate", &state]);
        command.args(["--server", &channel(port), "--ctrl", &channel(port + 1)]);
        let swtpm = Process::spawn("swtpm", command, &self.dir.join("swtpm.log"))?;
        let end = Instant::now() + LISTEN;
        while TcpStream::connect(("127.0.0.1", port + 1)).is_err() {
            ensure!(Instant::now() < end, "swtpm does not listen on port {port}");
            thread::sleep(Duration::from_millis(20));
        }
        Ok((swtpm, port))
    }
}

/// A port that nobody listens on, and the next one neither. None of those that the kernel gives to who connects: the
/// attempts to reach a program before it listens would take its own.
fn free_pair() -> Result<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut even = (20_000..32_000).step_by(2);
    even.find(|port| free(*port) && free(port + 1))
        .context("no two free ports")
}
