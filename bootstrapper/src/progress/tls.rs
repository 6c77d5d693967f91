//! TLS between exactly two ends: each accepts the one certificate that the init material names.

use hand_off::ProgressMaterial;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject as _},
    },
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use std::sync::Arc;

/// Material that TLS cannot be made of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The certificate and its key do not fit.
    #[error("the server's certificate and key do not serve")]
    Configuration(#[source] Error),
    /// A certificate or key is not PEM.
    #[error("malformed {what} in the init material")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
}

/// The server's end.
///
/// # Errors
/// [`TlsError`].
pub(super) fn server(material: &ProgressMaterial) -> Result<Arc<ServerConfig>, TlsError> {
    let malformed = |what| move |source| TlsError::Pem { what, source };
    let chain = CertificateDer::from_pem_slice(material.server_certificate.as_bytes())
        .map_err(malformed("server certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(material.server_key.expose_secret().as_bytes())
        .map_err(malformed("server key"))?;
    let client = CertificateDer::from_pem_slice(material.client_certificate.as_bytes())
        .map_err(malformed("client certificate"))?;
    let provider = Arc::new(provider());
    let verifier = PinnedClient {
        certificate: client,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Configuration)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![chain], key)
        .map_err(TlsError::Configuration)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
    ];
    provider
}

/// Accepts one certificate, byte by byte. Names, dates and issuers in it mean nothing: it came through the attested
/// channel of the init, for this purpose alone.
#[derive(Debug)]
struct PinnedClient {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for PinnedClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if *end_entity == self.certificate && intermediates.is_empty() {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(Error::General("not the client of this init".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
