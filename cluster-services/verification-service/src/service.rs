//! From a configuration to a running service.

use crate::{
    config::Config,
    desk::Desk,
    grpc::Grpc,
    http_get,
    node::{NodeError, NodeIdentity, evidence_kind},
    worker::{Ended, Worker},
};
use api::verify::verification_service_server::VerificationServiceServer;
use service_runtime::{
    Readiness, Shutdown, admin,
    program::Service,
    serve::{self, BindError, Plain, Protocol, Server},
    shutdown,
};
use std::{convert::Infallible, io, net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, time::timeout};

/// A verification service whose sockets are bound.
#[derive(Debug)]
pub struct VerificationService {
    http: TcpListener,
    grpc: TcpListener,
    admin: TcpListener,
    desk: Desk,
    worker_ended: Ended,
    readiness: Readiness,
    server: Server,
}

/// Why the verification service did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It is not clear which node this is.
    #[error("which node is this?")]
    Node(#[source] NodeError),
}

/// The longest request: a challenge for an RSA key has some 500 bytes.
const MAX_REQUEST: usize = 8 * 1024;

/// How long a shutdown waits for the device to finish its command and give up its keys.
const DEVICE_DRAIN: Duration = Duration::from_secs(2);

impl VerificationService {
    /// Finds out which node this is, binds the sockets and starts the device's thread. A device that is
    /// not there yet is opened later; there are no statements until then.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        let readiness = admin::begin();
        let node = NodeIdentity::find(&config.node).map_err(StartError::Node)?;
        let kind = evidence_kind(&config.devices.command_line).map_err(StartError::Node)?;
        let (http, grpc) = (
            serve::bind(config.http_listen).await?,
            serve::bind(config.grpc_listen).await?,
        );
        let admin = serve::bind(config.admin_listen).await?;
        let unique = node.key.as_ref().map(|key| key.unique);
        let queue = config.limits.queue.get() as usize;
        let devices = config.devices.devices();
        let (worker, worker_ended) =
            Worker::start((kind, unique), devices, queue, readiness.clone());
        tracing::info!(node = %node.name, cluster = %node.cluster, %kind, certified_key = unique.is_some(), "verification service starts");
        Ok(Self {
            http,
            grpc,
            admin,
            desk: Desk::new(node, worker, config.limits),
            worker_ended,
            readiness,
            server: server(config),
        })
    }

    /// Where `GET /?nonce=` is answered, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn http_address(&self) -> io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where gRPC is answered.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn grpc_address(&self) -> io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Where probes and metrics are served.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until shutdown is requested and what was begun is answered.
    pub async fn serve(self, shutdown: Shutdown) {
        let admin = tokio::spawn(admin::run(
            self.admin,
            self.readiness.clone(),
            shutdown.clone(),
        ));
        let grpc = VerificationServiceServer::new(Grpc(self.desk.clone()))
            .max_decoding_message_size(MAX_REQUEST);
        let desk = self.desk;
        let http = tower::service_fn(move |request| {
            let desk = desk.clone();
            async move { Ok::<_, Infallible>(http_get::answer(desk, request).await) }
        });
        self.readiness.set("serving", true);
        let http1 = Server {
            protocol: Protocol::Http1,
            ..self.server
        };
        tokio::join!(
            http1.run(self.http, Plain, http, shutdown.clone()),
            self.server.run(self.grpc, Plain, grpc, shutdown),
        );
        // Nobody can ask any more, so the thread ends; a device that hangs keeps it, and not us.
        if timeout(DEVICE_DRAIN, self.worker_ended).await.is_err() {
            tracing::warn!("the attestation device is busy; its keys are left to it");
        }
        shutdown::join([admin]).await;
    }
}

impl Service for VerificationService {
    type Config = Config;
    type Error = StartError;
    const NAME: &'static str = "verification-service";

    async fn run(config: Config, shutdown: Shutdown) -> Result<(), StartError> {
        Self::bind(&config).await?.serve(shutdown).await;
        Ok(())
    }
}

fn server(config: &Config) -> Server {
    Server {
        protocol: Protocol::Http2,
        connections: config.limits.connections.get() as usize,
        connections_per_peer: config.limits.connections_per_address.get() as usize,
        handshake: Duration::from_secs(5),
        idle: Duration::from_secs(10),
        request: config.limits.request_seconds.duration(),
        drain: config.drain_seconds.duration(),
    }
}
