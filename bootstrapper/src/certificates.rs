//! Certificates of the kubelet that a control-plane node signs for itself, as kubeadm would.
//!
//! Nobody else's are signed here: other nodes' come from the cluster's signers, on requests that the join
//! service made.

use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{
    PrivateKeyDer,
    pem::{self, PemObject as _},
};
use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

/// What kubeadm calls the authority whose key it makes.
const AUTHORITY: &str = "kubernetes";

/// As kubeadm's own certificates; a boot renews them.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Clocks of nodes differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A certificate cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The authority's key is not PEM.
    #[error("the authority's key is not PEM")]
    Pem(#[source] pem::Error),
    /// The authority's key, or a name, does not serve.
    #[error("the authority's key or the node's name does not serve")]
    Signing(#[from] rcgen::Error),
}

/// A certificate and its key, PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair(..)")
    }
}

/// The kubelet's client and serving certificates, each with a new key.
///
/// # Errors
/// [`CertificateError`].
pub fn sign_kubelet(
    authority_key: &str,
    node_name: &str,
    address: IpAddr,
    now: SystemTime,
) -> Result<[Pair; 2], CertificateError> {
    let key =
        PrivateKeyDer::from_pem_slice(authority_key.as_bytes()).map_err(CertificateError::Pem)?;
    let mut authority = CertificateParams::default();
    authority.distinguished_name = DistinguishedName::new();
    // Go, which made the authority, writes such a name as a PrintableString; verifiers compare the bytes.
    authority.distinguished_name.push(
        DnType::CommonName,
        DnValue::PrintableString(AUTHORITY.try_into()?),
    );
    let issuer = Issuer::new(authority, KeyPair::try_from(&key)?);
    let sign = |usage, names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("system:node:{node_name}"));
        params.subject_alt_names = names;
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + LIFETIME).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        let key = key.serialize_pem();
        Ok::<_, CertificateError>(Pair { certificate, key })
    };
    Ok([
        sign(ExtendedKeyUsagePurpose::ClientAuth, Vec::new())?,
        sign(
            ExtendedKeyUsagePurpose::ServerAuth,
            vec![
                SanType::DnsName(node_name.try_into()?),
                SanType::IpAddress(address),
            ],
        )?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, IsCa};
    use rustls::{
        RootCertStore,
        pki_types::{CertificateDer, ServerName},
    };
    use std::sync::Arc;

    /// An authority as kubeadm makes it, but for the kind of its key.
    fn authority() -> (CertificateDer<'static>, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = DnValue::PrintableString(AUTHORITY.try_into().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (
            params.self_signed(&key).unwrap().into(),
            key.serialize_pem(),
        )
    }

    fn verify(authority: &CertificateDer<'static>, serving: &Pair, name: &str) -> bool {
        use rustls::client::{WebPkiServerVerifier, danger::ServerCertVerifier as _};
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let certificate = CertificateDer::from_pem_slice(serving.certificate.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = rustls::pki_types::UnixTime::now();
        verifier
            .verify_server_cert(&certificate, &[], &name, &[], now)
            .is_ok()
    }

    #[test]
    fn a_kubelet_serves_under_its_own_names_and_no_other() {
        let (authority, key) = authority();
        let address = [10, 0, 0, 1].into();
        let [client, serving] = sign_kubelet(&key, "first-0", address, SystemTime::now()).unwrap();
        assert!(verify(&authority, &serving, "first-0"));
        assert!(verify(&authority, &serving, "10.0.0.1"));
        assert!(!verify(&authority, &serving, "kubernetes"));
        assert!(
            !verify(&authority, &client, "first-0"),
            "a client is no server"
        );
        assert!(
            !verify(&self::authority().0, &serving, "first-0"),
            "another authority"
        );
    }

    #[test]
    fn a_key_that_is_none_signs_nothing() {
        for key in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            let signed = sign_kubelet(key, "first-0", [10, 0, 0, 1].into(), SystemTime::now());
            assert!(signed.is_err(), "{key}");
        }
    }
}
