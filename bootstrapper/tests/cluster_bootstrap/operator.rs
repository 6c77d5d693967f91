//! The CLI's end of an init.

use anyhow::{Context as _, Result};
use api::bootstrap::{
    FinishRequest, FollowRequest, GetResultRequest, GetResultResponse,
    bootstrap_client::BootstrapClient, progress::Event,
};
use hand_off::{ProgressMaterial, SecretText};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Keys and certificates of both ends.
pub(crate) struct Operator {
    server: (String, String),
    client: (String, String),
}

impl Operator {
    /// New ones.
    pub(crate) fn generate() -> Self {
        Self {
            server: certificate(),
            client: certificate(),
        }
    }

    /// Somebody who knows the server, and is not the one that it knows.
    pub(crate) fn with_another_certificate(&self) -> Self {
        Self {
            server: self.server.clone(),
            client: certificate(),
        }
    }

    pub(crate) fn material(&self) -> ProgressMaterial {
        ProgressMaterial {
            server_certificate: self.server.0.clone(),
            server_key: SecretText::new(self.server.1.clone()),
            client_certificate: self.client.0.clone(),
        }
    }

    /// The names of what happened, to the end of the run.
    pub(crate) fn follow(&self, address: SocketAddr) -> Result<Vec<String>> {
        call(async {
            let mut client = self.connect(address).await?;
            let mut stream = client.follow(FollowRequest {}).await?.into_inner();
            let mut events = Vec::new();
            while let Some(progress) = stream.message().await? {
                match progress.event.context("an event")? {
                    Event::Phase(phase) => events.push(format!("phase {}", phase.name)),
                    Event::Log(_) => {}
                    Event::Ended(ended) if ended.succeeded => events.push("succeeded".into()),
                    Event::Ended(ended) => events.push(ended.error),
                }
            }
            Ok(events)
        })
    }

    pub(crate) fn result(&self, address: SocketAddr) -> Result<GetResultResponse> {
        call(async {
            let mut client = self.connect(address).await?;
            Ok(client.get_result(GetResultRequest {}).await?.into_inner())
        })
    }

    pub(crate) fn finish(&self, address: SocketAddr) -> Result<()> {
        call(async {
            let mut client = self.connect(address).await?;
            client.finish(FinishRequest {}).await?;
            Ok(())
        })
    }

    async fn connect(&self, address: SocketAddr) -> Result<BootstrapClient<Channel>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.server.0.as_bytes())?)?;
        let chain = vec![CertificateDer::from_pem_slice(self.client.0.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(self.client.1.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let connect = tower::service_fn(move |_uri| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                let stream = connector
                    .connect("bootstrapper".try_into().unwrap(), stream)
                    .await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://bootstrapper");
        Ok(BootstrapClient::new(
            endpoint.connect_with_connector(connect).await?,
        ))
    }
}

fn certificate() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["bootstrapper".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn call<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(call)
}
