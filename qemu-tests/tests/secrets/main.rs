//! No secret of a run is where it does not belong: a join and a rejoin of a real node, the operator's
//! command line, and then a search through everything that the programs left behind.

mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::KeyVersion;
use key_hierarchy::{KeyEncryptionKey, KeyHierarchy, KeySalt};
use qemu_tests::{Process, Scenario, Site, contained, program};
use secret::{DataKey, MasterSecret};
use secret_file::{Passphrase, SecretKind};
use serde_json::Value;
use state_disk::{Inspection, SLOT_LEN, SLOT_OFFSETS, SealedDisk};

use search::Search;

/// A secret and its name.
type Named = (String, Vec<u8>);

/// The operator's command line has read its secrets by then.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn no_secret_of_a_run_is_where_it_does_not_belong() -> Result<()> {
    let scenario = Scenario::direct("secrets")?;
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    node.start("rejoin")?.expect_unlocked(2)?;

    let site = &scenario.site;
    let own = own_files(site)?;
    let mut secrets: Vec<Named> = own.values().cloned().collect();
    secrets.extend(encrypted_secrets(site)?);
    secrets.extend(disk_secrets(site, node.state.path())?);
    let search = Search::new(&secrets);

    let services = [&site.key_service, &site.join_service];
    for service in services {
        expect_clean_process(&search, service.id().context("the service runs")?)?;
        expect_own_files_only(
            service.id().context("the service runs")?,
            scenario.workspace.dir(),
        )?;
    }
    expect_clean_cli(&search, &scenario)?;

    let only = |(path, (name, _)): (PathBuf, Named)| (path, BTreeSet::from([name]));
    let expected: BTreeMap<_, _> = own.into_iter().map(only).collect();
    let mut found = BTreeMap::new();
    let mut files = Vec::new();
    list(scenario.workspace.dir(), &mut files)?;
    for file in files {
        let names = search.find_in_file(&file)?;
        if !names.is_empty() {
            found.insert(file, names);
        }
    }
    // Equal, not only included: it shows that the search finds what is there.
    ensure!(
        found == expected,
        "found {found:#?}, expected {expected:#?}"
    );
    scenario.passed()
}

/// The files that hold a secret in the clear, on purpose: what systemd would give as a credential on
/// tmpfs, the TLS keys of the services, the passphrase of this run.
fn own_files(site: &Site) -> Result<BTreeMap<PathBuf, Named>> {
    let mut own = BTreeMap::new();
    let credentials = [
        (site.cli.file("admission.key"), SecretKind::AdmissionKey),
        (audit_key(site, "key-service"), SecretKind::AuditKey),
        (audit_key(site, "join-service"), SecretKind::AuditKey),
    ];
    for (path, kind) in credentials {
        let secret = secret_file::read_credential(&path, kind, |secret| Some(secret.to_vec()))?;
        let name = format!("{kind} in {}", path.display());
        own.insert(path, (name, secret));
    }
    for entry in fs::read_dir(site.dir().join("pki"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "key") {
            let name = format!("TLS key in {}", path.display());
            let secret = private_scalar(&fs::read_to_string(&path)?)?;
            own.insert(path, (name, secret));
        }
    }
    let passphrase = site.cli.passphrase_file();
    let secret = fs::read(passphrase)?;
    own.insert(passphrase.to_owned(), ("passphrase".to_owned(), secret));
    ensure!(own.len() >= 6, "secrets are kept elsewhere: {own:#?}");
    Ok(own)
}

fn audit_key(site: &Site, service: &str) -> PathBuf {
    site.dir().join(format!("{service}-audit-key/audit.key"))
}

/// The number that makes a P-256 key private (SEC 1, appendix C.4, inside PKCS #8).
fn private_scalar(pem: &str) -> Result<Vec<u8>> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body)?;
    let before = [2, 1, 1, 4, 32];
    let at = der.windows(5).position(|window| window == before);
    let at = at.context("not a P-256 key in PKCS #8")? + before.len();
    let scalar = der.get(at..at + 32).context("a cut key")?;
    Ok(scalar.to_vec())
}

/// What is on the operator's disk encrypted only.
fn encrypted_secrets(site: &Site) -> Result<Vec<Named>> {
    let read = |name: &str, kind| -> Result<Named> {
        let passphrase = Passphrase::read(site.cli.passphrase_file())?;
        let path = site.cli.file(name);
        let take = |secret: &[u8]| Some(secret.to_vec());
        let secret = secret_file::read_encrypted(&path, kind, &passphrase, take)?;
        Ok((kind.to_string(), secret))
    };
    Ok(vec![
        read("owner.key", SecretKind::OwnerKey)?,
        read("master-secret.key", SecretKind::MasterSecret)?,
    ])
}

/// The data key of a state disk and the volume keys in its header.
fn disk_secrets(site: &Site, disk: &Path) -> Result<Vec<Named>> {
    let sealed = sealed_disk(disk)?;
    let data_key = data_key(site, &sealed)?;
    let volume_keys = sealed.open(&data_key)?.header.volume_keys;
    Ok(vec![
        ("data key".to_owned(), data_key.expose_secret().to_vec()),
        (
            "volume keys".to_owned(),
            volume_keys.expose_secret().to_vec(),
        ),
    ])
}

fn sealed_disk(disk: &Path) -> Result<SealedDisk> {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::open(disk)?;
    let mut slots = [[0; SLOT_LEN]; 2];
    for (slot, offset) in slots.iter_mut().zip(SLOT_OFFSETS) {
        file.read_exact_at(slot, offset)?;
    }
    match state_disk::inspect(&slots)? {
        Inspection::Sealed(sealed) => Ok(sealed),
        Inspection::Blank => bail!("the node's disk is blank"),
    }
}

fn data_key(site: &Site, sealed: &SealedDisk) -> Result<DataKey> {
    let cluster: Value = serde_json::from_slice(&fs::read(site.cli.file("cluster.json"))?)?;
    let salt = cluster["salt"]
        .as_str()
        .context("cluster.json has no salt")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(salt, &mut bytes).map_err(anyhow::Error::msg)?;
    let passphrase = Passphrase::read(site.cli.passphrase_file())?;
    let key = KeyEncryptionKey {
        secret: secret_file::read_encrypted(
            &site.cli.file("master-secret.key"),
            SecretKind::MasterSecret,
            &passphrase,
            MasterSecret::from_slice,
        )?,
        salt: KeySalt(bytes),
    };
    let hierarchy = KeyHierarchy::new(KeyVersion::FIRST, key);
    Ok(hierarchy.derive_state_disk(KeyVersion::FIRST, sealed.claims().disk)?)
}

/// What everybody on the machine reads of a process: its arguments, and what its user reads.
fn expect_clean_process(search: &Search, id: u32) -> Result<()> {
    for name in ["cmdline", "environ"] {
        let path = PathBuf::from(format!("/proc/{id}/{name}"));
        let found = search.find_in_file(&path)?;
        ensure!(found.is_empty(), "{found:?} in {}", path.display());
    }
    Ok(())
}

/// A service has no file open but those of its installation, which are searched.
fn expect_own_files_only(id: u32, dir: &Path) -> Result<()> {
    for entry in fs::read_dir(format!("/proc/{id}/fd"))? {
        let target = fs::read_link(entry?.path())?;
        let is_file = target.is_absolute() && !target.starts_with("/dev");
        ensure!(
            !is_file || target.starts_with(dir),
            "process {id} has {} open",
            target.display()
        );
    }
    Ok(())
}

/// `constellation recover`, the one verb with the owner key and the master secret at once, while it
/// waits for a node that does not answer.
fn expect_clean_cli(search: &Search, scenario: &Scenario) -> Result<()> {
    let (site, silent) = (&scenario.site, TcpListener::bind("127.0.0.1:0")?);
    let records = site.save_records()?;
    let mut command = contained(program("constellation")?);
    command.arg("recover").arg(silent.local_addr()?.to_string());
    for (option, path) in [
        ("--records", &records),
        ("--owner-key", &site.cli.file("owner.key")),
        ("--master-secret", &site.cli.file("master-secret.key")),
        ("--cluster", &site.cli.file("cluster.json")),
        ("--policy", &site.documents.policy),
        ("--reference-values", &site.documents.reference_values),
        ("--passphrase-file", &site.cli.passphrase_file().to_owned()),
    ] {
        command.arg(option).arg(path);
    }
    let log = scenario.workspace.file("recover.log");
    let mut cli = Process::spawn("constellation", command, &log)?;
    // It dials when it has everything.
    silent.set_nonblocking(true)?;
    let end = std::time::Instant::now() + PATIENCE;
    while silent.accept().is_err() {
        ensure!(
            std::time::Instant::now() < end,
            "no connection; log: {}",
            log.display()
        );
        ensure!(
            cli.exit_status()?.is_none(),
            "recover ended; log: {}",
            log.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    expect_clean_process(search, cli.id())?;
    cli.kill()
}

/// All files below a folder.
fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}
