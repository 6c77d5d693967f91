//! A software TPM with an endorsement certificate, for tests only.
//!
//! Runs the real `swtpm` and `swtpm_setup` (Debian packages `swtpm`, `swtpm-tools`). Production
//! crates may name this crate under `dev-dependencies` and nowhere else. It knows no structure of
//! ours: it hands over bytes. [`keys`] has the keys of a TPM without the TPM, for tests and
//! benchmarks of pure code and services that need thousands of attesters.

pub mod event_log;
pub mod keys;

use std::{
    fs, io,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};
use tempfile::TempDir;

/// The longest response.
const MAX_RESPONSE: usize = 4096;
/// Waiting for the socket: 10 ms a try.
const CONNECT_TRIES: usize = 500;
/// NV index of an ECC P-256 endorsement key certificate (EK Credential Profile 2.5, 2.2.1.4).
const NV_ECC_P256: u32 = 0x01c0_000a;

/// A root, and an issuer under it, for endorsement key certificates; made by `swtpm_localca`.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
}

impl Authority {
    /// A new authority. Its keys are made with the first TPM that it certifies.
    ///
    /// # Errors
    /// If its directory cannot be written.
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name).display().to_string();
        let localca = format!(
            "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
            path("."),
            path("signkey.pem"),
            path("issuercert.pem"),
            path("certserial"),
        );
        fs::write(path("localca.conf"), localca)?;
        fs::write(
            path("localca.options"),
            "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n",
        )?;
        let setup = format!(
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\n\
             create_certs_tool_options = {}\nactive_pcr_banks = sha1,sha256,sha384\n",
            path("localca.conf"),
            path("localca.options"),
        );
        fs::write(path("setup.conf"), setup)?;
        Ok(Self { dir })
    }

    /// The root's certificate, PEM.
    ///
    /// # Errors
    /// If no TPM has been manufactured yet.
    pub fn root_pem(&self) -> io::Result<String> {
        fs::read_to_string(self.dir.path().join("swtpm-localca-rootca-cert.pem"))
    }

    /// The issuer's certificate, PEM; signed by the root.
    ///
    /// # Errors
    /// If no TPM has been manufactured yet.
    pub fn issuer_pem(&self) -> io::Result<String> {
        fs::read_to_string(self.dir.path().join("issuercert.pem"))
    }

    /// Manufactures a TPM with an RSA 2048 endorsement key and its certificate, and starts it.
    ///
    /// # Errors
    /// If the programs are missing or fail.
    pub fn manufacture(&self) -> io::Result<SoftwareTpm> {
        let dir = tempfile::tempdir()?;
        let output = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--tpm-state"])
            .arg(dir.path())
            .arg("--config")
            .arg(self.dir.path().join("setup.conf"))
            .output()
            .map_err(|error| missing("swtpm_setup", &error))?;
        if !output.status.success() {
            let log = String::from_utf8_lossy(&output.stdout);
            return Err(io::Error::other(format!("swtpm_setup failed: {log}")));
        }
        SoftwareTpm::start(dir)
    }
}

/// A running software TPM, started up with `TPM2_Startup(CLEAR)`; killed on drop.
#[derive(Debug)]
pub struct SoftwareTpm {
    dir: PathBuf,
    child: Child,
    _temporary: Option<TempDir>,
}

impl SoftwareTpm {
    fn start(dir: TempDir) -> io::Result<Self> {
        let mut tpm = Self::open(dir.path())?;
        tpm._temporary = Some(dir);
        Ok(tpm)
    }

    /// Starts a TPM whose state somebody else has made in this folder, and keeps.
    ///
    /// # Errors
    /// If the program does not start.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            child: spawn(dir)?,
            _temporary: None,
        })
    }

    /// Cuts the power and switches it on again: PCRs are reset, NV stays.
    ///
    /// # Errors
    /// If the program does not start.
    pub fn power_cycle(&mut self) -> io::Result<()> {
        self.stop();
        self.child = spawn(&self.dir)?;
        Ok(())
    }

    /// Connects to the TPM; one connection at a time is served.
    ///
    /// # Errors
    /// If the socket does not appear within five seconds.
    pub fn connect(&self) -> io::Result<Connection> {
        let path = socket(&self.dir);
        for _ in 0..CONNECT_TRIES {
            if let Ok(stream) = UnixStream::connect(&path) {
                return Ok(Connection(stream));
            }
            sleep(Duration::from_millis(10));
        }
        UnixStream::connect(&path).map(Connection)
    }

    /// The socket that takes commands, once it is there.
    ///
    /// # Errors
    /// If it does not appear within five seconds.
    pub fn socket(&self) -> io::Result<PathBuf> {
        // Nothing is sent, so nothing is left behind.
        self.connect().map(|_| socket(&self.dir))
    }

    fn stop(&mut self) {
        // Both fail only when the process is gone already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(socket(&self.dir)));
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection to a TPM.
#[derive(Debug)]
pub struct Connection(UnixStream);

impl Connection {
    /// Sends one command and returns its response.
    ///
    /// # Errors
    /// If the TPM is gone.
    pub fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(command)?;
        let mut response = vec![0; MAX_RESPONSE];
        let len = self.0.read(&mut response)?;
        response.truncate(len);
        Ok(response)
    }

    /// Stores `certificate` where an ECC P-256 endorsement key's is looked for; `swtpm_setup` of
    /// this version makes certificates for RSA 2048 and P-384 only.
    ///
    /// # Errors
    /// If the TPM is gone or refuses.
    pub fn store_ecc_certificate(&mut self, certificate: &[u8]) -> io::Result<()> {
        // OWNERWRITE | AUTHREAD | OWNERREAD | NO_DA.
        self.store(NV_ECC_P256, 0x0206_0002, certificate)
    }

    /// Stores `data` at an NV index that the owner reads and nobody else. This TPM's indices hold 2048
    /// bytes at most.
    ///
    /// # Errors
    /// If the TPM is gone or refuses.
    pub fn store_for_owner(&mut self, index: u32, data: &[u8]) -> io::Result<()> {
        // OWNERWRITE | OWNERREAD | NO_DA.
        self.store(index, 0x0202_0002, data)
    }

    /// Makes a primary key from a `TPMT_PUBLIC` and keeps it at a persistent handle.
    ///
    /// # Errors
    /// If the TPM is gone or refuses.
    pub fn keep_key(&mut self, template: &[u8], handle: u32) -> io::Result<()> {
        // inSensitive, inPublic, outsideInfo, creationPCR.
        let create = [
            &[0, 4, 0, 0, 0, 0][..],
            &size_of(template)?,
            template,
            &[0; 6],
        ]
        .concat();
        let created = self.as_owner(0x131, &[], &create)?;
        let key = created.get(10..14).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.as_owner(0x120, key, &handle.to_be_bytes())?;
        // TPM2_FlushContext has no authorization.
        let flush = [&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65], key].concat();
        successful(self.transact(&flush)?).map(drop)
    }

    fn store(&mut self, index: u32, attributes: u32, data: &[u8]) -> io::Result<()> {
        // There may be none to replace.
        drop(self.as_owner(0x122, &index.to_be_bytes(), &[]));
        // TPMS_NV_PUBLIC: SHA-256, no policy.
        let public = [
            &index.to_be_bytes()[..],
            &[0x00, 0x0b],
            &attributes.to_be_bytes(),
            &[0, 0],
            &size_of(data)?,
        ]
        .concat();
        let define = [&[0, 0], &size_of(&public)?[..], &public].concat();
        self.as_owner(0x12a, &[], &define)?;
        for (i, chunk) in data.chunks(512).enumerate() {
            let offset = u16::try_from(i * 512).map_err(io::Error::other)?;
            let write = [&size_of(chunk)?[..], chunk, &offset.to_be_bytes()].concat();
            self.as_owner(0x137, &index.to_be_bytes(), &write)?;
        }
        Ok(())
    }

    /// Runs a command that the owner authorizes with an empty password; gives the response.
    fn as_owner(&mut self, code: u32, handles: &[u8], parameters: &[u8]) -> io::Result<Vec<u8>> {
        let owner = 0x4000_0001_u32.to_be_bytes();
        let password = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let body = [
            &code.to_be_bytes()[..],
            &owner,
            handles,
            &password,
            parameters,
        ]
        .concat();
        let size = u32::try_from(body.len() + 6).map_err(io::Error::other)?;
        let command = [&[0x80, 0x02], &size.to_be_bytes()[..], &body].concat();
        successful(self.transact(&command)?)
    }
}

fn successful(response: Vec<u8>) -> io::Result<Vec<u8>> {
    match response.get(6..10) {
        Some([0, 0, 0, 0]) => Ok(response),
        code => Err(io::Error::other(format!("TPM answered {code:02x?}"))),
    }
}

/// The length in front of a `TPM2B`.
fn size_of(bytes: &[u8]) -> io::Result<[u8; 2]> {
    let size = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok(size.to_be_bytes())
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("socket")
}

fn spawn(dir: &Path) -> io::Result<Child> {
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", dir.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket(dir).display()))
        .arg("--ctrl")
        .arg(format!(
            "type=unixio,path={}",
            dir.join("control").display()
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| missing("swtpm", &error))
}

fn missing(program: &str, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot run `{program}`: {error}\nhint: install `swtpm` and `swtpm-tools`"),
    )
}
