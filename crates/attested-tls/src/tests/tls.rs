//! TLS peers that are not ours.

use evidence::AdmissionPath::{Join, Recover};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, ServerConnection, SignatureScheme, SupportedProtocolVersion,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{
        ClientHello, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use std::sync::Arc;

use super::parties::*;
use crate::{ALPN, SessionError};

/// A foreign TLS peer: what differs from ours is in here.
#[derive(Clone)]
struct Foreign {
    version: &'static SupportedProtocolVersion,
    alpn: Vec<Vec<u8>>,
    certificates: Vec<CertificateDer<'static>>,
    key: Option<Vec<u8>>,
}

fn key_and_certificate(
    algorithm: &'static rcgen::SignatureAlgorithm,
) -> (Vec<u8>, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key);
    (key.serialize_der(), certificate.unwrap().der().clone())
}

impl Foreign {
    /// As our own ends are.
    fn like_ours() -> Self {
        let (key, certificate) = key_and_certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        Self {
            version: &TLS13,
            alpn: vec![ALPN.to_vec()],
            certificates: vec![certificate],
            key: Some(key),
        }
    }

    fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone()?.into());
        let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Some(Arc::new(CertifiedKey::new(self.certificates.clone(), key)))
    }

    fn client(&self) -> Connection {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything))
            .with_client_cert_resolver(Arc::new(Always(self.certified_key())));
        config.alpn_protocols = self.alpn.clone();
        let name = ServerName::try_from("foreign").unwrap();
        ClientConnection::new(Arc::new(config), name)
            .unwrap()
            .into()
    }

    fn server(&self) -> Connection {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anything))
            .with_cert_resolver(Arc::new(Always(self.certified_key())));
        config.alpn_protocols = self.alpn.clone();
        ServerConnection::new(Arc::new(config)).unwrap().into()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Presents its certificates whether or not they fit the key or the peer's wishes.
#[derive(Debug)]
struct Always(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
}

/// Checks nothing: what is tested is our side's refusal.
#[derive(Debug)]
struct Anything;

fn every_scheme() -> Vec<SignatureScheme> {
    provider()
        .signature_verification_algorithms
        .supported_schemes()
}

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        every_scheme()
    }
}

impl ClientCertVerifier for Anything {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        every_scheme()
    }
}

/// Runs TLS between a foreign connection and one of our sessions; what the session ended with.
fn meet(mut foreign: Connection, party: &mut impl Party) -> Option<String> {
    let mut to_party = Vec::new();
    for _ in 0..8 {
        while foreign.wants_write() {
            foreign.write_tls(&mut to_party).unwrap();
        }
        let answer = party.turn(&mut to_party);
        let mut unread = answer.as_slice();
        while !unread.is_empty() {
            foreign.read_tls(&mut unread).unwrap();
            if foreign.process_new_packets().is_err() {
                break;
            }
        }
    }
    party
        .outcome()?
        .as_ref()
        .err()
        .map(|error| format!("{error:?}"))
}

/// What both of our listening and both of our dialling sessions make of it.
fn refusals(foreign: &Foreign) -> Vec<Option<String>> {
    vec![
        meet(foreign.client(), &mut Office::new(Join)),
        meet(foreign.client(), &mut Node::new(Recover)),
        meet(foreign.server(), &mut Office::new(Recover)),
        meet(foreign.server(), &mut Node::new(Join)),
    ]
}

fn assert_all(refusals: &[Option<String>], expected: &str) {
    for refusal in refusals {
        let refusal = refusal.as_deref().unwrap_or("still waiting");
        assert!(
            refusal.contains(expected),
            "expected {expected}, got {refusal}"
        );
    }
}

#[test]
fn a_foreign_end_like_ours_gets_as_far_as_the_frames() {
    for refusal in refusals(&Foreign::like_ours()) {
        assert_eq!(refusal, None);
    }
}

#[test]
fn tls_1_2_is_refused() {
    let foreign = Foreign {
        version: &TLS12,
        ..Foreign::like_ours()
    };
    let refusals = refusals(&foreign);
    assert_all(&refusals[..2], "Tls(PeerIncompatible");
    // A TLS 1.2 server finds no version in our hello.
    assert_all(&refusals[2..], "Tls(AlertReceived(ProtocolVersion))");
}

#[test]
fn another_application_protocol_is_refused() {
    let foreign = Foreign {
        alpn: vec![b"h2".to_vec(), b"catls/2".to_vec()],
        ..Foreign::like_ours()
    };
    let refusals = refusals(&foreign);
    assert_all(&refusals[..2], "NoApplicationProtocol");
    assert_all(&refusals[2..], "NoApplicationProtocol");
}

#[test]
fn no_application_protocol_is_refused() {
    let foreign = Foreign {
        alpn: Vec::new(),
        ..Foreign::like_ours()
    };
    assert_all(&refusals(&foreign), "Alpn");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let foreign = Foreign {
        key: None,
        ..Foreign::like_ours()
    };
    for party in [
        meet(foreign.client(), &mut Office::new(Join)),
        meet(foreign.client(), &mut Node::new(Recover)),
    ] {
        assert_all(&[party], "NoCertificatesPresented");
    }
}

#[test]
fn a_handshake_signed_by_another_key_is_refused() {
    let (other_key, _) = key_and_certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
    let foreign = Foreign {
        key: Some(other_key),
        ..Foreign::like_ours()
    };
    assert_all(&refusals(&foreign), "InvalidCertificate(BadSignature)");
}

#[test]
fn other_signature_schemes_are_refused() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let (key, certificate) = key_and_certificate(algorithm);
        let foreign = Foreign {
            key: Some(key),
            certificates: vec![certificate],
            ..Foreign::like_ours()
        };
        for refusal in refusals(&foreign) {
            // A foreign client without a common scheme sends no certificate at all.
            let refusal = refusal.unwrap();
            assert!(refusal.starts_with("Tls("), "{refusal}");
        }
    }
}

#[test]
fn certificate_chains_and_huge_or_malformed_certificates_are_refused() {
    let ours = Foreign::like_ours();
    let leaf = ours.certificates[0].clone();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut huge = rcgen::CertificateParams::default();
    huge.subject_alt_names = vec![rcgen::SanType::URI(
        format!("urn:{}", "x".repeat(4000)).try_into().unwrap(),
    )];
    let huge = huge.self_signed(&key).unwrap().der().clone();
    for certificates in [
        vec![leaf.clone(), leaf.clone()],
        vec![huge],
        vec![CertificateDer::from(leaf[..leaf.len() - 1].to_vec())],
        vec![CertificateDer::from(vec![0; 64])],
    ] {
        let foreign = Foreign {
            certificates,
            ..ours.clone()
        };
        assert_all(&refusals(&foreign), "Tls(InvalidCertificate(");
    }
}

#[test]
fn bytes_that_are_not_tls_are_refused() {
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0; 100],
        vec![0xff; 100],
        [vec![22, 3, 3, 0xff, 0xff], vec![0; 70_000]].concat(),
    ] {
        let mut office = Office::new(Join);
        let mut inbound = garbage.clone();
        office.turn(&mut inbound);
        assert!(
            matches!(office.error(), SessionError::Tls(_)),
            "{garbage:?}"
        );
        let mut node = Node::new(Join);
        node.turn(&mut Vec::new());
        let mut inbound = garbage;
        node.turn(&mut inbound);
        assert!(matches!(node.error(), SessionError::Tls(_)));
    }
}

#[test]
fn both_sides_offer_the_hybrid_group_first_and_no_resumption() {
    let mut hello = Node::new(Join).turn(&mut Vec::new());
    let mut acceptor = rustls::server::Acceptor::default();
    acceptor.read_tls(&mut hello.as_slice()).unwrap();
    hello.clear();
    let accepted = acceptor.accept().map_err(|_| ()).unwrap().unwrap();
    let hello = accepted.client_hello();
    let groups = hello.named_groups().unwrap();
    assert_eq!(groups[0], rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(hello.server_name(), None);
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [ALPN]);
    assert_eq!(
        hello.signature_schemes(),
        [SignatureScheme::ECDSA_NISTP256_SHA256]
    );
}

#[test]
fn a_foreign_client_that_wants_tickets_gets_none() {
    // It resumes by default, ours must not play along.
    let mut foreign = Foreign::like_ours().client();
    let mut office = Office::new(Join);
    let (mut to_office, mut answer) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        while foreign.wants_write() {
            foreign.write_tls(&mut to_office).unwrap();
        }
        answer.extend(office.turn(&mut to_office));
        let mut unread = answer.as_slice();
        while !unread.is_empty() {
            foreign.read_tls(&mut unread).unwrap();
            foreign.process_new_packets().unwrap();
        }
        answer.clear();
    }
    assert!(!foreign.is_handshaking());
    let Connection::Client(client) = foreign else {
        panic!("a client")
    };
    assert_eq!(client.tls13_tickets_received(), 0);
}
