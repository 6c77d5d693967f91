//! Software TPMs with endorsement key certificates under a local CA.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use child_process::run;

/// A manufacturer of TPMs: a root CA and an issuing CA of this run.
#[derive(Clone, Debug)]
pub struct TpmAuthority {
    dir: PathBuf,
}

/// One TPM; its identity and NV memory live in a folder and survive power cycles.
#[derive(Clone, Debug)]
pub struct Swtpm {
    dir: PathBuf,
}

impl TpmAuthority {
    /// Makes a new authority in a folder of its own.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let path = |name: &str| dir.join(name).display().to_string();
        fs::write(
            dir.join("setup.conf"),
            format!(
                "create_certs_tool=swtpm_localca\ncreate_certs_tool_config={}\ncreate_certs_tool_options={}\nactive_pcr_banks=sha256\n",
                path("localca.conf"),
                path("localca.options")
            ),
        )?;
        fs::write(
            dir.join("localca.conf"),
            format!(
                "statedir={}\nsigningkey={}\nissuercert={}\ncertserial={}\n",
                dir.display(),
                path("signkey.pem"),
                path("issuercert.pem"),
                path("certserial")
            ),
        )?;
        fs::write(
            dir.join("localca.options"),
            "--platform-manufacturer Constellation\n--platform-version 1\n--platform-model test\n",
        )?;
        let authority = Self { dir };
        // The CA's own certificates are made with the first TPM that it certifies.
        Swtpm::manufacture(&authority.dir.join("first"), &authority)?;
        Ok(authority)
    }

    /// An authority that was made here before.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The root certificate, PEM.
    pub fn root(&self) -> PathBuf {
        self.dir.join("swtpm-localca-rootca-cert.pem")
    }

    /// The certificate that signs endorsement key certificates, PEM; the root has signed it.
    pub fn issuer(&self) -> PathBuf {
        self.dir.join("issuercert.pem")
    }
}

impl Swtpm {
    /// Manufactures a TPM: RSA 2048 and ECC P-384 endorsement keys at 0x81010001 and 0x81010016,
    /// their certificates in NV memory, and only the SHA-256 bank of PCRs.
    pub fn manufacture(dir: &Path, authority: &TpmAuthority) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let mut setup = Command::new("swtpm_setup");
        setup.args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--overwrite"]);
        setup
            .args(["--pcr-banks", "sha256"])
            .arg("--tpmstate")
            .arg(&dir);
        setup.arg("--config").arg(authority.dir.join("setup.conf"));
        setup.arg("--logfile").arg(dir.join("setup.log"));
        setup.arg("--write-ek-cert-files").arg(&dir);
        run(&mut setup).with_context(|| format!("see {}", dir.join("setup.log").display()))?;
        Ok(Self { dir })
    }

    /// A TPM that was manufactured here before.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// swtpm's arguments: it listens on `socket`, and ends when QEMU does.
    pub fn arguments(&self, command: &mut Command, socket: &Path) {
        command.args(["socket", "--tpm2", "--terminate"]);
        command
            .arg("--tpmstate")
            .arg(format!("dir={}", self.dir.display()));
        command
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()));
    }

    /// The certificate of the RSA endorsement key, DER.
    pub fn ek_certificate(&self) -> Result<Vec<u8>> {
        let path = self.dir.join("ek-rsa2048.crt");
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tpms_of_one_authority_differ_and_share_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let authority = TpmAuthority::create(&dir.path().join("ca")).unwrap();
        let first = Swtpm::manufacture(&dir.path().join("a"), &authority).unwrap();
        let root = fs::read_to_string(authority.root()).unwrap();
        let second = Swtpm::manufacture(&dir.path().join("b"), &authority).unwrap();
        assert_eq!(root, fs::read_to_string(authority.root()).unwrap());
        assert_ne!(
            first.ek_certificate().unwrap(),
            second.ek_certificate().unwrap()
        );
        let issuer = fs::read_to_string(authority.issuer()).unwrap();
        assert!(issuer.contains("BEGIN CERTIFICATE"));
    }
}
