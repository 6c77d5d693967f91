//! Following the bootstrapper: gRPC over TLS in which each end accepts the other's one certificate.

use anyhow::{Context as _, Result, anyhow};
use api::bootstrap::{
    FinishRequest, FollowRequest, GetResultRequest, GetResultResponse,
    bootstrap_client::BootstrapClient, progress::Event,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use super::{
    report::Report,
    workspace::{BOOTSTRAPPER, Progress},
};

/// Until TLS stands.
const CONNECT: Duration = Duration::from_secs(10);

/// How a node that lost its power in the middle of a silence is noticed.
const PING: Duration = Duration::from_secs(10);

/// The longest message: a kubeconfig and a record, or a line of a log.
const MAX_ANSWER: usize = 256 << 10;

/// The bootstrapper of one node.
pub(super) struct Bootstrapper {
    node: SocketAddr,
    tls: TlsConnector,
}

/// How a run was followed to its end, or not.
pub(super) enum Followed {
    /// The connection broke.
    Broken(anyhow::Error),
    /// The run failed; what the bootstrapper says about it.
    Failed(String),
    /// The run succeeded.
    Succeeded,
}

impl Bootstrapper {
    /// The bootstrapper that got the other half of `progress`.
    pub(super) fn new(node: SocketAddr, progress: &Progress) -> Result<Self> {
        let pinned = &progress.bootstrapper;
        let server = CertificateDer::from_pem_slice(pinned.server_certificate.as_bytes())?;
        let client = CertificateDer::from_pem_slice(pinned.client_certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(progress.client_key.expose_secret().as_bytes())?;
        // A certificate that is no authority: as a root it vouches for itself alone.
        let mut roots = RootCertStore::empty();
        roots.add(server)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![client], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            node,
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// A connection, if the bootstrapper listens; the agent may do so in its place.
    pub(super) async fn connect(&self) -> Result<BootstrapClient<Channel>> {
        let (node, tls) = (self.node, self.tls.clone());
        let connector = tower::service_fn(move |_| {
            let tls = tls.clone();
            async move { dial(node, &tls).await.map(TokioIo::new) }
        });
        // The URI is required and never resolved: the connector ignores it.
        let endpoint = Endpoint::from_static("http://bootstrapper.invalid")
            .http2_keep_alive_interval(PING)
            .keep_alive_while_idle(true);
        let channel = timeout(CONNECT, endpoint.connect_with_connector(connector))
            .await
            .map_err(|_| anyhow!("no connection within {} s", CONNECT.as_secs()))
            .and_then(|connected| connected.map_err(Into::into))
            .with_context(|| format!("reach the bootstrapper at {node}"))?;
        Ok(BootstrapClient::new(channel).max_decoding_message_size(MAX_ANSWER))
    }
}

async fn dial(node: SocketAddr, tls: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(node).await?;
    let name = ServerName::try_from(BOOTSTRAPPER).map_err(io::Error::other)?;
    tls.connect(name, stream).await
}

/// Shows the run until it ends.
pub(super) async fn follow(client: &mut BootstrapClient<Channel>, report: &mut Report) -> Followed {
    report.follow_again();
    let mut run = match client.follow(FollowRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Followed::Broken(broken(status)),
    };
    loop {
        let message = match run.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Followed::Broken(anyhow!("the bootstrapper ended the connection")),
            Err(status) => return Followed::Broken(broken(status)),
        };
        match message.event {
            Some(Event::Phase(phase)) => report.phase(&phase),
            Some(Event::Log(line)) => report.log(&line),
            Some(Event::Ended(ended)) if ended.succeeded => return Followed::Succeeded,
            Some(Event::Ended(ended)) => return Followed::Failed(ended.error),
            // An event of a later version.
            None => {}
        }
    }
}

/// What the run made.
pub(super) async fn result(client: &mut BootstrapClient<Channel>) -> Result<GetResultResponse> {
    let answer = client.get_result(GetResultRequest {}).await;
    Ok(answer.map_err(broken)?.into_inner())
}

/// The operator has stored it.
pub(super) async fn finish(client: &mut BootstrapClient<Channel>) -> Result<()> {
    client.finish(FinishRequest {}).await.map_err(broken)?;
    Ok(())
}

fn broken(status: tonic::Status) -> anyhow::Error {
    anyhow::Error::new(status).context("ask the bootstrapper")
}
