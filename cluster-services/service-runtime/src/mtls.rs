//! Mutual TLS between services: configurations from PEM files, and the name of the peer.
//!
//! TLS 1.3 only, one provider, no resumption. Whoever presents a certificate of the configured CA is
//! *authenticated* as the one name in it; what that name may do is the caller's decision.

use crate::{logs::Chain, serve::Accept};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use serde::Deserialize;
use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The PEM files of one end. None of them has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificate chain of this end, leaf first.
    pub certificate: PathBuf,
    /// Private key of the leaf.
    pub private_key: PathBuf,
    /// The certificate authorities whose peers are authenticated. Make it one that signs nothing else.
    pub peer_ca: PathBuf,
}

/// Why TLS cannot be configured, or a peer not be named.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MtlsError {
    /// The certificate's names do not say who it is.
    #[error("certificate has {got} DNS and URI names, expected exactly one")]
    AmbiguousName {
        /// How many there are.
        got: usize,
    },
    /// A file cannot be read, or has no PEM item of the wanted kind.
    #[error("cannot load {what} from `{}`", path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// Key, certificate or CA do not fit together.
    #[error("certificate, key and CA do not make a TLS configuration")]
    Configuration(#[source] rustls::Error),
    /// There is no usable certificate authority in the file.
    #[error("no usable certificate authority in `{}`", .0.display())]
    NoAuthority(PathBuf),
    /// There is no usable certificate authority in what was given.
    #[error("no usable certificate authority")]
    NoAuthorityGiven,
    /// The peer's certificate is not X.509.
    #[error("malformed certificate")]
    MalformedCertificate(#[source] x509_cert::der::Error),
    /// The peer presented no certificate.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// What was given has no PEM item of the wanted kind.
    #[error("cannot load {what}")]
    Pem {
        /// What it should hold.
        what: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// The client verifier cannot be built.
    #[error("cannot verify clients with these authorities")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// The ALPN id of HTTP/2 (RFC 9113, section 3.1), all that services speak among themselves.
const ALPN: &[u8] = b"h2";

/// What the files of [`TlsFiles`] hold: PEM, from wherever it came.
#[derive(Clone, Copy)]
pub struct TlsPem<'a> {
    /// Certificate chain of this end, leaf first.
    pub certificate: &'a [u8],
    /// Private key of the leaf.
    pub private_key: &'a [u8],
    /// The certificate authorities whose peers are authenticated.
    pub peer_ca: &'a [u8],
}

impl fmt::Debug for TlsPem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsPem(..)")
    }
}

impl TlsPem<'_> {
    /// A server that wants a client certificate from everybody.
    ///
    /// # Errors
    /// When a part is missing or does not fit the others.
    pub fn server_config(self) -> Result<Arc<ServerConfig>, MtlsError> {
        server_with(
            chain(self.certificate)?,
            key(self.private_key)?,
            self.roots()?,
        )
    }

    /// A client that shows its certificate and accepts servers of the given CA only.
    ///
    /// # Errors
    /// When a part is missing or does not fit the others.
    pub fn client_config(self) -> Result<Arc<ClientConfig>, MtlsError> {
        client_with(
            chain(self.certificate)?,
            key(self.private_key)?,
            self.roots()?,
        )
    }

    fn roots(self) -> Result<RootCertStore, MtlsError> {
        roots(chain(self.peer_ca)?).ok_or(MtlsError::NoAuthorityGiven)
    }
}

/// A server that wants a client certificate from everybody.
///
/// # Errors
/// When a file is missing or does not fit the others.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, MtlsError> {
    let roots = roots_of(&files.peer_ca)?;
    server_with(
        chain_of(&files.certificate)?,
        key_of(&files.private_key)?,
        roots,
    )
}

/// A client that shows its certificate and accepts servers of the configured CA only.
///
/// # Errors
/// When a file is missing or does not fit the others.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, MtlsError> {
    let roots = roots_of(&files.peer_ca)?;
    client_with(
        chain_of(&files.certificate)?,
        key_of(&files.private_key)?,
        roots,
    )
}

fn server_with(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
) -> Result<Arc<ServerConfig>, MtlsError> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(MtlsError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(MtlsError::Configuration)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(MtlsError::Configuration)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn client_with(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: RootCertStore,
) -> Result<Arc<ClientConfig>, MtlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(MtlsError::Configuration)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(MtlsError::Configuration)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Shakes hands with clients of the configured CA and names them.
#[derive(Clone)]
pub struct MtlsAcceptor(watch::Receiver<Arc<ServerConfig>>);

impl MtlsAcceptor {
    /// An acceptor with these files.
    ///
    /// # Errors
    /// When a file is missing or does not fit the others.
    pub fn new(files: &TlsFiles) -> Result<Self, MtlsError> {
        // A receiver keeps the last value when its sender is gone.
        Ok(Self(watch::channel(server_config(files)?).1))
    }

    /// An acceptor whose next handshake uses the configuration then in force, one of
    /// [`TlsPem::server_config`].
    #[must_use]
    pub const fn following(config: watch::Receiver<Arc<ServerConfig>>) -> Self {
        Self(config)
    }
}

impl fmt::Debug for MtlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MtlsAcceptor")
    }
}

impl Accept<TcpStream, IpAddr> for MtlsAcceptor {
    type Stream = TlsStream<TcpStream>;
    type Peer = PeerName;

    async fn accept(&self, io: TcpStream, source: IpAddr) -> Option<(Self::Stream, PeerName)> {
        let refused = |error: &(dyn std::error::Error + 'static)| {
            metrics::counter!("tls_handshakes_refused_total").increment(1);
            tracing::warn!(peer = %source, error = %Chain(error), "TLS handshake refused");
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.borrow()));
        let stream = match acceptor.accept(io).await {
            Ok(stream) => stream,
            Err(error) => {
                refused(&error);
                return None;
            }
        };
        match PeerName::of_peer(stream.get_ref().1.peer_certificates()) {
            Ok(name) => Some((stream, name)),
            Err(error) => {
                refused(&error);
                None
            }
        }
    }
}

/// Who the peer is: the one DNS or URI name of its certificate, as `dns:NAME` or `uri:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct PeerName(String);

impl PeerName {
    /// Names the peer of a finished handshake. The handshake must have verified its certificate.
    ///
    /// # Errors
    /// When there is no certificate, or not exactly one name in it.
    pub fn of_peer(certificates: Option<&[CertificateDer<'_>]>) -> Result<Self, MtlsError> {
        let leaf = certificates
            .and_then(|chain| chain.first())
            .ok_or(MtlsError::NoCertificate)?;
        let certificate = Certificate::from_der(leaf).map_err(MtlsError::MalformedCertificate)?;
        let names = certificate
            .tbs_certificate()
            .get_extension::<SubjectAltName>()
            .map_err(MtlsError::MalformedCertificate)?
            .map(|(_critical, SubjectAltName(names))| names)
            .unwrap_or_default();
        let mut texts = names.iter().filter_map(|name| match name {
            GeneralName::DnsName(dns) => Some(format!("dns:{}", dns.as_str())),
            GeneralName::UniformResourceIdentifier(uri) => Some(format!("uri:{}", uri.as_str())),
            _ => None,
        });
        match (texts.next(), texts.count()) {
            (Some(name), 0) => Ok(Self(name)),
            (None, _) => Err(MtlsError::AmbiguousName { got: 0 }),
            (Some(_), more) => Err(MtlsError::AmbiguousName { got: more + 1 }),
        }
    }

    /// The peer with this DNS name.
    #[must_use]
    pub fn dns(name: &str) -> Self {
        Self(format!("dns:{name}"))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a certificate has it: kind and value. `None` for a name that no certificate has.
    #[must_use]
    pub fn parts(&self) -> Option<(NameKind, &str)> {
        let (kind, value) = self.0.split_once(':')?;
        match kind {
            "dns" => Some((NameKind::Dns, value)),
            "uri" => Some((NameKind::Uri, value)),
            _ => None,
        }
    }
}

/// The kind of a [`PeerName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A DNS name.
    Dns,
    /// A URI.
    Uri,
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// aws-lc-rs with the post-quantum hybrid first, the order of the attested channels.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
    ];
    Arc::new(provider)
}

fn roots(authorities: Vec<CertificateDer<'static>>) -> Option<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in authorities {
        store.add(certificate).ok()?;
    }
    (!store.is_empty()).then_some(store)
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, MtlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| MtlsError::Pem {
            what: "certificates",
            source,
        })
}

fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, MtlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| MtlsError::Pem {
        what: "a private key",
        source,
    })
}

fn roots_of(path: &Path) -> Result<RootCertStore, MtlsError> {
    roots(chain_of(path)?).ok_or_else(|| MtlsError::NoAuthority(path.to_owned()))
}

fn chain_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, MtlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| MtlsError::File {
            what: "certificates",
            path: path.to_owned(),
            source,
        })
}

fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, MtlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| MtlsError::File {
        what: "a private key",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn name_of(names: &[SanType]) -> Result<PeerName, MtlsError> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        PeerName::of_peer(Some(&[certificate.der().clone()]))
    }

    #[test]
    fn a_peer_is_its_one_name() {
        let dns = SanType::DnsName("join-service".try_into().unwrap());
        let uri = SanType::URI("spiffe://cluster/join".try_into().unwrap());
        let ip = SanType::IpAddress([127, 0, 0, 1].into());
        assert_eq!(
            name_of(&[dns.clone(), ip.clone()]).unwrap().as_str(),
            "dns:join-service"
        );
        assert_eq!(
            name_of(std::slice::from_ref(&uri)).unwrap().as_str(),
            "uri:spiffe://cluster/join"
        );
        for (names, count) in [(vec![], 0), (vec![ip], 0), (vec![dns, uri], 2)] {
            assert!(
                matches!(name_of(&names), Err(MtlsError::AmbiguousName { got }) if got == count)
            );
        }
    }

    #[test]
    fn no_certificate_or_no_der_has_no_name() {
        assert!(matches!(
            PeerName::of_peer(None),
            Err(MtlsError::NoCertificate)
        ));
        assert!(matches!(
            PeerName::of_peer(Some(&[])),
            Err(MtlsError::NoCertificate)
        ));
        let garbage = CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01]);
        assert!(matches!(
            PeerName::of_peer(Some(&[garbage])),
            Err(MtlsError::MalformedCertificate(_))
        ));
    }

    #[test]
    fn both_ends_come_from_pem_and_nothing_may_be_missing() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        let key = key.serialize_pem().into_bytes();
        let whole = TlsPem {
            certificate: &pem,
            private_key: &key,
            peer_ca: &pem,
        };
        whole.server_config().unwrap();
        whole.client_config().unwrap();
        let without = |clear: fn(&mut TlsPem<'_>)| {
            let mut part = whole;
            clear(&mut part);
            assert!(part.server_config().is_err());
            assert!(part.client_config().is_err());
        };
        without(|pem| pem.certificate = &[]);
        without(|pem| pem.private_key = &[]);
        without(|pem| pem.peer_ca = &[]);
        assert_eq!(format!("{whole:?}"), "TlsPem(..)");
    }

    #[test]
    fn a_missing_or_empty_file_is_named() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let files = |ca: &Path| TlsFiles {
            certificate: "/nonexistent/cert.pem".into(),
            private_key: "/nonexistent/key.pem".into(),
            peer_ca: ca.into(),
        };
        assert!(matches!(
            server_config(&files(empty.path())),
            Err(MtlsError::NoAuthority(path)) if path == empty.path()
        ));
        assert!(matches!(
            client_config(&files(Path::new("/nonexistent/ca.pem"))),
            Err(MtlsError::File {
                what: "certificates",
                ..
            })
        ));
    }
}
