//! The services' secrets as systemd credentials bound to a TPM (docs/install.md, "Service host"), made and opened
//! by the system's own `systemd-creds`.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use child_process::{Process, contained, free_pair, run};
use qemu_tests::{Site, TpmAuthority, Workspace};
use serde_json::json;

/// The documents whose words are tested.
const INSTALL: &str = include_str!("../../docs/install.md");
const OPERATE: &str = include_str!("../../docs/operate-services.md");

/// Both directions. The key on the host's disk that docs/install.md adds would be the one of whoever runs the test.
const SEAL: [&str; 2] = ["encrypt", "--with-key=tpm2"];
const OPEN: [&str; 1] = ["decrypt"];

/// Seconds for one command with the TPM.
const LIMIT: &str = "30";

/// What `timeout` ends with when a command took longer (timeout(1)).
const TIMED_OUT: &str = "exit status: 124";

/// A program that is to listen does so at once.
const LISTEN: Duration = Duration::from_secs(10);

#[test]
fn what_one_tpm_opens_is_what_the_services_need() -> Result<()> {
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
        ours.creds(name, &SEAL, [plain, &sealed])??;
        fs::remove_file(plain)?;
    }
    for (name, plain) in &secrets {
        let sealed = workspace.file(name);
        let foreign = other.creds(name, &OPEN, [&sealed, plain])?;
        let foreign = foreign.err().map(|error| error.to_string());
        ensure!(
            foreign
                .as_ref()
                .is_some_and(|text| !text.contains(TIMED_OUT)),
            "another TPM opens `{name}`, or says nothing: {foreign:?}"
        );
        let renamed = ours.creds("another-name", &OPEN, [&sealed, plain])?;
        let refusal = renamed.err().map(|error| error.to_string());
        ensure!(
            refusal
                .as_ref()
                .is_some_and(|text| text.contains("Embedded credential name")),
            "`{name}` has another name: {refusal:?}"
        );
        ensure!(!plain.exists(), "something was written of `{name}`");
        ours.creds(name, &OPEN, [&sealed, plain])??;
    }
    // The other one does open what is its own.
    let (sealed, plain) = (workspace.file("own.sealed"), workspace.file("own"));
    other.creds("own", &SEAL, [&site.cli.file("owner.pub"), &sealed])??;
    other.creds("own", &OPEN, [&sealed, &plain])??;
    // Both answer `/readyz`: the join service reaches the key service, which has opened the master secret.
    site.start()?;
    site.stop()?;
    workspace.passed()
}

/// What docs/install.md makes a credential of, and where this installation's configurations expect it.
fn secrets(site: &Site) -> Vec<(String, PathBuf)> {
    let file = |path: &str| site.dir().join(path);
    let secrets = [
        ("admission-key", site.cli.file("admission.key")),
        ("join-audit-key", file("join-service-audit-key/audit.key")),
        ("join-service-tls", file("pki/join-service.key")),
        ("key-audit-key", file("key-service-audit-key/audit.key")),
        ("key-service-tls", file("pki/key-service.key")),
        ("master-passphrase", site.cli.passphrase_file().to_owned()),
    ];
    for (name, _) in &secrets {
        assert!(INSTALL.contains(&format!("| `{name}` |")), "{name}");
        let path = format!("/run/credentials/{}.service/{name}", user(name));
        assert!(OPERATE.contains(&path), "{path}");
    }
    secrets.map(|(name, path)| (name.to_owned(), path)).into()
}

/// The service that reads a secret.
fn user(name: &str) -> &'static str {
    match name.starts_with("key-") || name.starts_with("master-") {
        true => "key-service",
        false => "join-service",
    }
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

    /// The inner result is what `systemd-creds` says.
    fn creds(&self, name: &str, verb: &[&str], files: [&Path; 2]) -> Result<Result<()>> {
        let (_swtpm, port) = self.power()?;
        let mut command = Command::new("timeout");
        command
            .args([LIMIT, "systemd-creds"])
            .args(verb)
            .arg(format!("--name={name}"));
        let tcti = format!("swtpm:host=127.0.0.1,port={port}");
        command.arg(format!("--tpm2-device={tcti}"));
        let done = run(command.args(files)).map(drop);
        // A TPM that loses its power without a word suspects a guesser, and locks itself after a few times.
        let mut shutdown = Command::new("timeout");
        run(shutdown.args([LIMIT, "tpm2_shutdown", "--clear", "--tcti", &tcti]))?;
        Ok(done)
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
        let log = self.dir.join("swtpm.log");
        let mut swtpm = Process::spawn("swtpm", command, &log)?;
        let end = Instant::now() + LISTEN;
        loop {
            let listens = TcpStream::connect(("127.0.0.1", port + 1)).is_ok();
            // Whoever listens where ours has ended is another one.
            let ended = swtpm.exit_status()?.is_some();
            ensure!(
                !ended && Instant::now() < end,
                "swtpm does not listen; log: {}",
                log.display()
            );
            if listens {
                return Ok((swtpm, port));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
