//! `constellation pki`: mutual TLS between the services of a standalone installation.

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use serde::Serialize;
use std::{
    fmt,
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{files, output::OutputFormat};

/// Make the certificates by which the services know each other.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a CA and one certificate for each service; the CA's key is not kept
    New(New),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::New(new) => output.print(&new.run()?),
        }
    }
}

/// Make a CA and one certificate for each service.
#[derive(Args, Debug)]
pub(crate) struct New {
    /// Directory for `ca.pem`, `key-service.{pem,key}` and `join-service.{pem,key}`; none may exist.
    /// The keys are written in the clear, mode 0600: give a directory on tmpfs, and move them into
    /// systemd credentials
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Address of the key service, for its certificate; may be repeated
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    key_service_ip: Vec<IpAddr>,
}

impl New {
    fn run(self) -> Result<NewPki> {
        files::create_dir(&self.out)?;
        let ca = ca()?;
        write(&self.out, "ca.pem", &ca.pem())?;
        let mut names = vec![san("key-service")?];
        names.extend(self.key_service_ip.iter().copied().map(SanType::IpAddress));
        issue(&self.out, "key-service", names, &ca)?;
        issue(&self.out, "join-service", vec![san("join-service")?], &ca)?;
        Ok(NewPki {
            directory: self.out,
        })
    }
}

#[derive(Serialize)]
struct NewPki {
    directory: PathBuf,
}

impl fmt::Display for NewPki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = self.directory.display();
        writeln!(
            f,
            "CA           `{directory}/ca.pem`; its key is gone, make a new PKI to replace a certificate"
        )?;
        writeln!(
            f,
            "key service  `{directory}/key-service.pem`, `.key`, name `key-service`"
        )?;
        write!(
            f,
            "join service `{directory}/join-service.pem`, `.key`, name `join-service`"
        )
    }
}

fn ca() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = named("Constellation services CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("make the CA")
}

fn issue(
    out: &Path,
    name: &str,
    names: Vec<SanType>,
    ca: &CertifiedIssuer<'_, KeyPair>,
) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = named(name);
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let certificate = params
        .signed_by(&key, ca)
        .with_context(|| format!("certify `{name}`"))?;
    write(out, &format!("{name}.pem"), &certificate.pem())?;
    write_key(out, &format!("{name}.key"), &key.serialize_pem())
}

/// Validity stays rcgen's default, 1975 to 4096: services are replaced by a new PKI, not by a date.
fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn san(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(
        name.try_into().context("name of a service")?,
    ))
}

fn write(out: &Path, name: &str, pem: &str) -> Result<()> {
    files::create(&out.join(name), pem.as_bytes())
}

fn write_key(out: &Path, name: &str, pem: &str) -> Result<()> {
    let path = out.join(name);
    let mut file = files::create_secret(&path)?;
    file.write_all(pem.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write `{}`", path.display()))
}
