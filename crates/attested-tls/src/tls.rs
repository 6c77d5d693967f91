//! The TLS configurations: stock rustls, narrowed to what attested TLS needs.

mod verifier;

use rustls::{
    ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::NoServerSessionStorage,
    version::TLS13,
};
use std::sync::Arc;

use evidence::Side;
use verifier::AnyLeaf;
pub(crate) use verifier::spki;

/// The one application protocol; a peer that does not select it is refused.
pub const ALPN: &[u8] = b"catls/1";

/// What rustls may buffer of our own unsent bytes: two frames.
const SEND_BUFFER: usize = 2 * (crate::MAX_FRAME + 1024);

/// One end of TLS sessions: an ephemeral key with its self-signed certificate, and the two
/// configurations made of them. A process makes one when it starts and clones it.
#[derive(Clone)]
pub struct TlsEnd {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    spki: Arc<[u8]>,
}

/// No TLS end could be made; the cryptographic library failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// No key or certificate.
    #[error("making the ephemeral certificate failed")]
    Certificate(#[source] rcgen::Error),
    /// rustls refused its configuration.
    #[error("making the TLS configuration failed")]
    Tls(#[source] rustls::Error),
}

impl TlsEnd {
    /// Makes a fresh key (ECDSA P-256, from the library's random generator) and certificate. The
    /// certificate's dates are constants and are never read.
    ///
    /// # Errors
    /// [`SetupError`], when the cryptographic library fails.
    pub fn generate() -> Result<Self, SetupError> {
        let key = rcgen::KeyPair::generate().map_err(SetupError::Certificate)?;
        let certificate = rcgen::CertificateParams::default()
            .self_signed(&key)
            .map_err(SetupError::Certificate)?;
        let certificate = certificate.der().clone();
        let key = || PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = Arc::new(provider());
        Ok(Self {
            spki: spki(&certificate).map_err(SetupError::Tls)?.into(),
            client: client_config(&provider, certificate.clone(), key())?.into(),
            server: server_config(&provider, certificate, key())?.into(),
        })
    }

    /// The client's configuration alone. A handshake with it proves nothing about the server.
    #[cfg(feature = "bare")]
    #[must_use]
    pub fn bare_client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// The server's configuration alone. A handshake with it proves nothing about the client.
    #[cfg(feature = "bare")]
    #[must_use]
    pub fn bare_server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// DER of this end's SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    pub(crate) fn connection(&self, side: Side) -> Result<Connection, rustls::Error> {
        let mut connection = match side {
            Side::Client => ClientConnection::new(self.client.clone(), server_name()?)?.into(),
            Side::Server => Connection::from(ServerConnection::new(self.server.clone())?),
        };
        connection.set_buffer_limit(Some(SEND_BUFFER));
        Ok(connection)
    }
}

impl std::fmt::Debug for TlsEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsEnd(..)")
    }
}

/// Never sent: server name indication is off.
fn server_name() -> Result<ServerName<'static>, rustls::Error> {
    ServerName::try_from("constellation")
        .map_err(|_| rustls::Error::General("server name".to_owned()))
}

/// aws-lc-rs with TLS 1.3 suites only and the hybrid group first: what is recorded today stays
/// closed to a later quantum computer.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some());
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
    ];
    provider
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, SetupError> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(SetupError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyLeaf::new(provider)))
        .with_client_auth_cert(vec![certificate], key)
        .map_err(SetupError::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.cert_decompressors = Vec::new();
    Ok(config)
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, SetupError> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(SetupError::Tls)?
        .with_client_cert_verifier(Arc::new(AnyLeaf::new(provider)))
        .with_single_cert(vec![certificate], key)
        .map_err(SetupError::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.cert_decompressors = Vec::new();
    Ok(config)
}
