//! A peer that does TLS by the book and everything inside it by hand.
//!
//! Written from docs/protocol.md with the messages alone, not with the sessions of `attested-tls`.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use evidence::{Binding, Channel, EXPORTER_LABEL, Side, exporter_context};
use prost::Message;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName,
    ServerConfig, ServerConnection, SignatureScheme,
};

/// The application protocol of docs/protocol.md.
const ALPN: &[u8] = b"catls/1";

/// No answer for so long is a failure of the test.
const PATIENCE: Duration = Duration::from_secs(20);

/// One TLS connection, either side of it.
pub(crate) struct Raw {
    connection: Connection,
    stream: TcpStream,
    side: Side,
    own_spki: Vec<u8>,
}

/// A frame: its length, then the message.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), message].concat()
}

impl Raw {
    /// Dials; TLS is up.
    pub(crate) fn dial(address: SocketAddr) -> Result<Self> {
        let (certificate, key, own_spki) = certificate()?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let name = ServerName::try_from("constellation")?;
        let connection = ClientConnection::new(Arc::new(config), name)?.into();
        Self::start(
            connection,
            TcpStream::connect(address)?,
            Side::Client,
            own_spki,
        )
    }

    /// Accepts one connection; TLS is up.
    pub(crate) fn accept(listener: &TcpListener) -> Result<Self> {
        let (certificate, key, own_spki) = certificate()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let connection = ServerConnection::new(Arc::new(config))?.into();
        Self::start(connection, listener.accept()?.0, Side::Server, own_spki)
    }

    fn start(
        mut connection: Connection,
        mut stream: TcpStream,
        side: Side,
        own_spki: Vec<u8>,
    ) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).context("handshake")?;
        }
        Ok(Self {
            connection,
            stream,
            side,
            own_spki,
        })
    }

    /// Sends any bytes. A peer that has closed already makes no error: what it said is still to be
    /// read.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let written = self.connection.writer().write(bytes)?;
            bytes = bytes.get(written..).unwrap_or_default();
            self.write()?;
        }
        Ok(())
    }

    /// Sends a message as a frame, and returns its bytes.
    pub(crate) fn send_message(&mut self, message: &impl Message) -> Result<Vec<u8>> {
        let message = message.encode_to_vec();
        self.send(&framed(&message))?;
        Ok(message)
    }

    /// The next frame's message; none once the peer has closed.
    pub(crate) fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(header) = self.read(4)? else {
            return Ok(None);
        };
        let header: [u8; 4] = header.as_slice().try_into()?;
        self.read(u32::from_be_bytes(header).try_into()?)
    }

    /// Exactly `length` bytes; none if the peer closes before.
    fn read(&mut self, length: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.connection.reader().read(rest) {
                Ok(0) => return Ok(None),
                Ok(got) => filled += got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.connection.read_tls(&mut self.stream) {
                        Ok(0) => return Ok(None),
                        Ok(_) => {
                            self.connection.process_new_packets()?;
                        }
                        Err(error) if is_closed(error.kind()) => return Ok(None),
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) if is_closed(error.kind()) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(bytes))
    }

    /// Tells the peer that nothing more comes, as an honest end.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.connection.send_close_notify();
        self.write()
    }

    /// Writes what TLS has queued.
    fn write(&mut self) -> Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if is_closed(error.kind()) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The binding of docs/protocol.md for this channel, where the client attests.
    pub(crate) fn binding(&self, client_hello: &[u8], server_hello: &[u8]) -> Result<Binding> {
        let Some([peer, ..]) = self.connection.peer_certificates() else {
            bail!("the peer has no certificate");
        };
        let peer = spki(peer)?;
        let (client_spki, server_spki) = match self.side {
            Side::Client => (&self.own_spki, &peer),
            Side::Server => (&peer, &self.own_spki),
        };
        let context = exporter_context(client_hello, server_hello);
        let exporter =
            self.connection
                .export_keying_material([0; 32], EXPORTER_LABEL, Some(&context))?;
        Ok(Binding::compute(&Channel {
            attester: Side::Client,
            client_hello,
            server_hello,
            client_spki,
            server_spki,
            exporter: &exporter,
        }))
    }
}

fn is_closed(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
    )
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificate() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>, Vec<u8>)> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::default().self_signed(&key)?;
    let certificate = certificate.der().clone();
    let spki = spki(&certificate)?;
    Ok((
        certificate,
        PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        spki,
    ))
}

/// DER of a certificate's SubjectPublicKeyInfo.
fn spki(certificate: &CertificateDer<'_>) -> Result<Vec<u8>> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(parsed.subject_public_key_info().to_vec())
}

/// Takes any certificate: a liar has nobody to protect.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
