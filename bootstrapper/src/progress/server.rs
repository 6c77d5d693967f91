//! The listener on which the CLI that initialised the node follows the run.

use super::{
    Progress,
    tls::{self, TlsError},
};
use api::bootstrap::{
    FinishRequest, FinishResponse, FollowRequest, GetResultRequest, GetResultResponse,
    Progress as ProgressMessage,
    bootstrap_server::{Bootstrap, BootstrapServer},
    progress::Event,
};
use hand_off::ProgressMaterial;
use rustls::ServerConfig;
use service_runtime::{
    Chain, Shutdown,
    serve::{Accept, Protocol, Server},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Requests are empty messages.
const MAX_REQUEST: usize = 1024;

const SERVER: Server = Server {
    protocol: Protocol::Http2,
    // One CLI, and what a host that floods the port may take.
    connections: 16,
    connections_per_peer: 8,
    handshake: Duration::from_secs(10),
    idle: Duration::from_secs(30),
    request: Duration::from_secs(10),
    // So that a follower reads of a failure before the program ends.
    drain: Duration::from_secs(5),
};

/// The listener cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgressError {
    /// The address cannot be used.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS for the progress of the init")]
    Tls(#[source] TlsError),
}

/// Tells that the operator has what the run made.
#[derive(Debug, Clone, Default)]
pub struct Finished(Arc<Notify>);

impl Finished {
    /// Waits for it.
    pub async fn wait(&self) {
        self.0.notified().await;
    }
}

/// The running listener.
#[derive(Debug)]
pub struct ProgressServer {
    /// Resolves when the operator has stored the result.
    pub finished: Finished,
    task: JoinHandle<()>,
    address: SocketAddr,
}

/// Where the result of a run is found.
#[derive(Debug, Clone)]
pub(crate) struct ResultFiles {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) node_record: PathBuf,
}

impl ProgressServer {
    /// Listens until shutdown is requested.
    ///
    /// # Errors
    /// [`ProgressError`].
    pub(crate) async fn start(
        address: SocketAddr,
        material: &ProgressMaterial,
        (progress, result): (Arc<Progress>, ResultFiles),
        shutdown: Shutdown,
    ) -> Result<Self, ProgressError> {
        let acceptor = PinnedAcceptor(tls::server(material).map_err(ProgressError::Tls)?);
        let bind = |source| ProgressError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let finished = Finished::default();
        let handler = Handler {
            progress,
            result,
            finished: finished.clone(),
        };
        let service = BootstrapServer::new(handler).max_decoding_message_size(MAX_REQUEST);
        tracing::info!(%address, "the run can be followed");
        let task = tokio::spawn(SERVER.run(listener, acceptor, service, shutdown));
        Ok(Self {
            finished,
            task,
            address,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the listener is closed.
    pub async fn closed(self) {
        if let Err(error) = self.task.await {
            tracing::error!(error = %Chain(&error), "the progress listener failed");
        }
    }
}

#[derive(Clone)]
struct PinnedAcceptor(Arc<ServerConfig>);

impl Accept<TcpStream, IpAddr> for PinnedAcceptor {
    type Stream = TlsStream<TcpStream>;
    type Peer = IpAddr;

    async fn accept(&self, io: TcpStream, source: IpAddr) -> Option<(Self::Stream, IpAddr)> {
        match TlsAcceptor::from(Arc::clone(&self.0)).accept(io).await {
            Ok(stream) => Some((stream, source)),
            Err(error) => {
                tracing::warn!(peer = %source, error = %Chain(&error), "TLS handshake refused");
                None
            }
        }
    }
}

#[derive(Debug)]
struct Handler {
    progress: Arc<Progress>,
    result: ResultFiles,
    finished: Finished,
}

#[tonic::async_trait]
impl Bootstrap for Handler {
    type FollowStream = ReceiverStream<Result<ProgressMessage, Status>>;

    async fn follow(
        &self,
        _request: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        // Small: a slow follower reads from the list of events, not from here.
        let (sender, receiver) = mpsc::channel(8);
        let progress = Arc::clone(&self.progress);
        tokio::spawn(async move {
            let mut number = 0;
            while let Some(event) = progress.event(number).await {
                let last = matches!(event, Event::Ended(_));
                let message = ProgressMessage { event: Some(event) };
                if sender.send(Ok(message)).await.is_err() || last {
                    break;
                }
                number += 1;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_result(
        &self,
        _request: Request<GetResultRequest>,
    ) -> Result<Response<GetResultResponse>, Status> {
        self.must_have_succeeded()?;
        let read = |path: PathBuf| async move {
            tokio::fs::read(&path).await.map_err(|error| {
                tracing::error!(path = %path.display(), error = %Chain(&error), "no result");
                Status::unavailable("the result cannot be read")
            })
        };
        let kubeconfig = read(self.result.kubeconfig.clone()).await?;
        let kubeconfig = String::from_utf8(kubeconfig)
            .map_err(|_not_text| Status::internal("the kubeconfig is no text"))?;
        let node_record = read(self.result.node_record.clone()).await?;
        Ok(Response::new(GetResultResponse {
            kubeconfig,
            node_record,
        }))
    }

    async fn finish(
        &self,
        _request: Request<FinishRequest>,
    ) -> Result<Response<FinishResponse>, Status> {
        self.must_have_succeeded()?;
        self.finished.0.notify_one();
        Ok(Response::new(FinishResponse {}))
    }
}

impl Handler {
    fn must_have_succeeded(&self) -> Result<(), Status> {
        if self.progress.has_succeeded() {
            Ok(())
        } else {
            Err(Status::failed_precondition("the run has not succeeded"))
        }
    }
}
