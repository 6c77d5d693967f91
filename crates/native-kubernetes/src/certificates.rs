//! The certificates of a control plane, made for one run.

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use std::net::{IpAddr, Ipv4Addr};

/// The first address of the Service range: the Service `kubernetes` in `default`.
const SERVICE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A certificate authority.
#[derive(Debug)]
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
#[derive(Debug)]
pub(crate) struct Certified {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// A new authority.
    pub(crate) fn new() -> Result<Self> {
        let mut params = named("kubernetes", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?);
        Ok(Self(issuer.context("make the authority")?))
    }

    /// Its certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its certificate, DER.
    pub(crate) fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// Its key, PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// The certificate of the API server.
    pub(crate) fn server(&self) -> Result<Certified> {
        let mut params = named("kube-apiserver", None);
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ] {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.try_into()?));
        }
        for address in [Ipv4Addr::LOCALHOST, SERVICE_ADDRESS] {
            let name = SanType::IpAddress(IpAddr::V4(address));
            params.subject_alt_names.push(name);
        }
        self.certify(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The certificate of a client, which Kubernetes reads as a user in a group.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> Result<Certified> {
        self.certify(named(user, group), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn certify(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Certified> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0).context("certify")?;
        Ok(Certified {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The key that signs ServiceAccount tokens: private and public, PEM.
pub(crate) fn signing_key() -> Result<[String; 2]> {
    let key = KeyPair::generate()?;
    Ok([key.serialize_pem(), key.public_key_pem()])
}

fn named(common_name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params
}
