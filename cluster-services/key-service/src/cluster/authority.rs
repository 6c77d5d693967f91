//! The authority that certifies the services of a cluster towards each other.

use key_hierarchy::{DeriveError, KeyHierarchy, ServiceKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime},
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use service_runtime::mtls::{MtlsError, NameKind, PeerName, TlsPem};
use std::{fmt, sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// Derived from the master secret, so that each replica and each start has the same one and its key is
/// stored nowhere.
pub(crate) struct ServiceAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    certificate: String,
    clients: Arc<dyn ClientCertVerifier>,
}

/// Why there is no authority, or no certificate by it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The seed cannot be derived.
    #[error("cannot derive the service authority")]
    Derivation(#[source] DeriveError),
    /// A certificate cannot be made.
    #[error("cannot make a certificate for `{name}`")]
    Certificate {
        /// For whom.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A name is none that a certificate can have.
    #[error("`{0}` is no name for a certificate")]
    Name(String),
    /// Our own certificate is none of an authority.
    #[error("the service authority's certificate is unusable")]
    Own(#[source] rustls::Error),
    /// Clients cannot be verified.
    #[error("cannot verify certificates of the service authority")]
    Verifier(#[source] VerifierBuilderError),
    /// Certificate and key do not make a TLS configuration.
    #[error("cannot set up TLS")]
    Tls(#[source] MtlsError),
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Client,
    Server,
}

/// A new certificate and its key, PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) private_key: Zeroizing<String>,
    /// Seconds since 1970.
    pub(crate) not_after: u64,
}

/// RFC 8410, section 7: a PKCS #8 Ed25519 private key up to its 32 bytes.
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Clocks of nodes differ; a certificate is valid from a while before it was made.
const BACKDATED: u64 = 3600;

impl ServiceAuthority {
    pub(crate) fn derive(keys: &KeyHierarchy) -> Result<Self, AuthorityError> {
        let seed = keys
            .derive_service_seed(ServiceKey::ServiceAuthority)
            .map_err(AuthorityError::Derivation)?;
        let mut pkcs8 = Zeroizing::new([0; 48]);
        pkcs8[..16].copy_from_slice(&ED25519_PKCS8);
        pkcs8[16..].copy_from_slice(seed.expose_secret());
        let failed = |source| AuthorityError::Certificate {
            name: SUBJECT.into(),
            source,
        };
        let document = PrivatePkcs8KeyDer::from(pkcs8.as_slice());
        let key =
            KeyPair::from_pkcs8_der_and_sign_algo(&document, &PKCS_ED25519).map_err(failed)?;
        let issuer = CertifiedIssuer::self_signed(parameters(), key).map_err(failed)?;
        Ok(Self {
            certificate: issuer.pem(),
            clients: verifier(issuer.der())?,
            issuer,
        })
    }

    /// Whether the authority vouches for a client's certificate at `now`, seconds since 1970.
    pub(crate) fn vouches_for(&self, leaf: &CertificateDer<'_>, now: u64) -> bool {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        self.clients.verify_client_cert(leaf, &[], now).is_ok()
    }

    /// The authority's certificate, PEM: the same bytes wherever it is derived.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate from `now` (seconds since 1970) on for `lifetime`.
    pub(crate) fn issue(
        &self,
        name: &PeerName,
        purpose: Purpose,
        now: u64,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let failed = |source| AuthorityError::Certificate {
            name: name.to_string(),
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
        let not_after = now.saturating_add(lifetime.as_secs());
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.subject_alt_names = vec![alternative_name(name)?];
        parameters.not_before =
            date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_sub(BACKDATED));
        parameters.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(not_after);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![match purpose {
            Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Issued {
            certificate: certificate.pem(),
            private_key: Zeroizing::new(key.serialize_pem()),
            not_after,
        })
    }
}

impl Issued {
    /// With the authority that both ends of our channels trust.
    pub(crate) fn with<'a>(&'a self, authority: &'a ServiceAuthority) -> TlsPem<'a> {
        TlsPem {
            certificate: self.certificate.as_bytes(),
            private_key: self.private_key.as_bytes(),
            peer_ca: authority.certificate().as_bytes(),
        }
    }
}

fn verifier(
    authority: &CertificateDer<'static>,
) -> Result<Arc<dyn ClientCertVerifier>, AuthorityError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(AuthorityError::Own)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(AuthorityError::Verifier)
}

const SUBJECT: &str = "Constellation services";

/// All of it fixed: the certificate is as much the authority's name as its key is.
fn parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, SUBJECT);
    parameters.serial_number = Some(SerialNumber::from(1_u64));
    parameters.not_before = date_time_ymd(2020, 1, 1);
    // It ends with the master secret, not by a date.
    parameters.not_after = date_time_ymd(9999, 12, 31);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters
}

fn alternative_name(name: &PeerName) -> Result<SanType, AuthorityError> {
    let refused = || AuthorityError::Name(name.to_string());
    let (kind, value) = name.parts().ok_or_else(refused)?;
    let value = value.try_into().map_err(|_| refused())?;
    Ok(match kind {
        NameKind::Dns => SanType::DnsName(value),
        NameKind::Uri => SanType::URI(value),
    })
}

impl fmt::Debug for ServiceAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceAuthority(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::KeyVersion;
    use key_hierarchy::{KeyEncryptionKey, KeySalt};
    use secret::MasterSecret;

    const NOW: u64 = 1_800_000_000;
    const LIFETIME: Duration = Duration::from_secs(1000);

    fn authority(secret: u8) -> ServiceAuthority {
        let key = KeyEncryptionKey {
            secret: MasterSecret::from_slice(&[secret; 32]).unwrap(),
            salt: KeySalt([2; 32]),
        };
        ServiceAuthority::derive(&KeyHierarchy::new(KeyVersion::FIRST, key)).unwrap()
    }

    fn leaf(issued: &Issued) -> CertificateDer<'static> {
        use rustls::pki_types::pem::PemObject;
        CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()
    }

    #[test]
    fn every_replica_derives_the_same_authority() {
        assert_eq!(authority(1).certificate(), authority(1).certificate());
        assert_ne!(authority(1).certificate(), authority(2).certificate());
        assert_eq!(format!("{:?}", authority(1)), "ServiceAuthority(..)");
    }

    #[test]
    fn it_vouches_for_its_own_clients_while_they_are_valid() {
        let (ours, foreign) = (authority(1), authority(2));
        let name = PeerName::dns("join-service");
        let issue =
            |by: &ServiceAuthority, purpose| by.issue(&name, purpose, NOW, LIFETIME).unwrap();
        let client = leaf(&issue(&ours, Purpose::Client));
        // Another replica, or the same one after a restart.
        assert!(authority(1).vouches_for(&client, NOW));
        assert!(ours.vouches_for(&client, NOW - BACKDATED + 1));
        assert!(ours.vouches_for(&client, NOW + 999));
        assert!(!ours.vouches_for(&client, NOW + 1001));
        assert!(!ours.vouches_for(&client, NOW - BACKDATED - 1));
        assert!(!ours.vouches_for(&leaf(&issue(&foreign, Purpose::Client)), NOW));
        assert!(!ours.vouches_for(&leaf(&issue(&ours, Purpose::Server)), NOW));
        assert!(!ours.vouches_for(ours.issuer.der(), NOW));
    }

    #[test]
    fn a_certificate_has_one_name_of_its_own() {
        let ours = authority(1);
        for name in ["dns:join-service", "uri:constellation:join-service"] {
            let name: PeerName = toml::from_str::<std::collections::BTreeMap<String, PeerName>>(
                &format!("name = {name:?}"),
            )
            .unwrap()
            .remove("name")
            .unwrap();
            let issued = ours.issue(&name, Purpose::Client, NOW, LIFETIME).unwrap();
            assert_eq!(issued.not_after, NOW + 1000);
            assert_eq!(PeerName::of_peer(Some(&[leaf(&issued)])).unwrap(), name);
            issued.with(&ours).client_config().unwrap();
        }
        let bad = PeerName::dns("no\u{e4}me");
        assert!(matches!(
            ours.issue(&bad, Purpose::Client, NOW, LIFETIME),
            Err(AuthorityError::Name(_))
        ));
    }
}
