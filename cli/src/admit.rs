//! The CLI in a join service's place, for one node: it dials the node's agent, appraises it by the
//! owner's documents, proves the owner, and serves the node's calls over the connection it dialled.

mod counter;
mod desk;
mod journal;

pub(crate) use counter::{Counter, Issuer, Ledger, Trouble, class, status};
pub(crate) use desk::{Desk, DeskArgs};
pub(crate) use journal::Journal;

use admission::Timestamp;
use anyhow::{Context as _, Result, anyhow};
use api::join::join_service_server::{JoinService, JoinServiceServer};
use appraisal::Appraised;
use attested_tls::{Admitter, AttestedStream, HandshakeError, SessionError, TlsEnd};
use evidence::AdmissionPath;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::net::TcpStream;
use tower::Layer as _;

use crate::output::{ExitStatus, UNAVAILABLE};

/// How long the attested handshake may take: the node's TPM and its processor may be slow.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// How long the node may take from the handshake to its last call.
const SESSION: Duration = Duration::from_secs(300);

/// How long to wait between two tries to reach a node that is still booting.
pub(crate) const RETRY: Duration = Duration::from_millis(500);

/// A channel to an attested node.
pub(crate) type Stream = AttestedStream<TcpStream, Appraised>;

/// Dials one node on one path.
#[derive(Debug)]
pub(crate) struct Dialler {
    admitter: Admitter<Desk>,
    node: SocketAddr,
    path: AdmissionPath,
}

/// Why there is no channel.
pub(crate) enum Unreached {
    /// Nobody there, or somebody who comes to no verdict: a node that is still booting, or a port
    /// forwarder in front of it, takes connections that lead nowhere.
    Again(anyhow::Error),
    /// A verdict.
    Refused(anyhow::Error),
}

impl Dialler {
    /// Sessions will be decided by `desk`.
    pub(crate) fn new(desk: Desk, node: SocketAddr, path: AdmissionPath) -> Result<Self> {
        let end = TlsEnd::generate().context("set up TLS")?;
        Ok(Self {
            admitter: Admitter::new(end, Arc::new(desk), 1, HANDSHAKE),
            node,
            path,
        })
    }

    /// One try.
    pub(crate) async fn attest(&self) -> Result<Stream, Unreached> {
        let again =
            |error: anyhow::Error| Unreached::Again(error.context(format!("reach {}", self.node)));
        let stream = TcpStream::connect(self.node).await;
        let stream = stream.map_err(|error| again(error.into()))?;
        match self.admitter.connect(stream, self.path).await {
            Ok(stream) => Ok(stream),
            Err(HandshakeError::Io(error)) => Err(again(error.into())),
            Err(error @ HandshakeError::Session(SessionError::Closed | SessionError::Deadline)) => {
                Err(again(error.into()))
            }
            // Whoever speaks another TLS is no agent; on a resumed init it is what comes after it.
            Err(error @ HandshakeError::Session(SessionError::Tls(_))) => Err(again(error.into())),
            Err(error) => Err(Unreached::Refused(explain(error))),
        }
    }
}

/// Serves the node's calls until it closes the connection.
pub(crate) async fn serve(stream: Stream, calls: impl JoinService) -> Result<()> {
    let service = JoinServiceServer::new(calls);
    let service = tonic_web::GrpcWebLayer::new().layer(service);
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    match tokio::time::timeout(SESSION, connection).await {
        // How the connection ended matters only if nothing was committed.
        Ok(_) => Ok(()),
        Err(_) => Err(anyhow!(
            "the node did not finish within {} s",
            SESSION.as_secs()
        ))
        .context(ExitStatus(UNAVAILABLE)),
    }
}

/// The runtime of a command that serves one node.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

/// The operator's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.unwrap_or_default().as_secs())
}

/// Turns a failed handshake into what the operator can act on.
fn explain(error: HandshakeError) -> anyhow::Error {
    let (whose, refusal) = match &error {
        HandshakeError::Session(SessionError::RefusedPeer(refusal)) => {
            ("we refuse the node", refusal)
        }
        HandshakeError::Session(SessionError::RefusedByAttester(refusal)) => {
            ("the node refuses us", refusal)
        }
        HandshakeError::Session(other) => {
            let status = ExitStatus::of(other.class());
            return anyhow::Error::new(error)
                .context("attest the node")
                .context(status);
        }
        _ => return anyhow::Error::new(error).context("attest the node"),
    };
    let checks = refusal.checks.iter().map(|check| {
        format!(
            "\n  {}: expected {}, got {}",
            check.check, check.expected, check.got
        )
    });
    let text = format!("{whose}: {}{}", refusal.class, checks.collect::<String>());
    anyhow::anyhow!(text).context(ExitStatus::of(refusal.class))
}
