//! One question: limits, then the device.

use crate::{
    config::LimitConfig,
    node::NodeIdentity,
    worker::{Made, Worker, WorkerError},
};
use api::{Class, StatedNode, StatementRequest};
use evidence::{AttesterClaim, StatementBinding, Subject};
use platform::attester::Attested;
use serde_json::Value;
use service_runtime::limit::{RateLimit, network};
use std::{net::IpAddr, sync::Arc, time::Instant};

/// Answers questions, whichever way they come.
#[derive(Debug, Clone)]
pub(crate) struct Desk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeIdentity,
    worker: Worker,
    per_address: RateLimit<IpAddr>,
    in_all: RateLimit<()>,
    limits: LimitConfig,
}

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeskError {
    /// Unavailable: too many questions from this address.
    #[error("too many requests from this address")]
    Address,
    /// Unavailable: too many questions in all.
    #[error("too many requests")]
    All,
    /// The worker's.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl DeskError {
    /// Who is to blame.
    pub(crate) const fn class(self) -> Class {
        match self {
            Self::Worker(WorkerError::Challenge | WorkerError::Unchallenged) => Class::Malformed,
            Self::Address | Self::All | Self::Worker(_) => Class::Unavailable,
        }
    }
}

impl Desk {
    pub(crate) fn new(node: NodeIdentity, worker: Worker, limits: LimitConfig) -> Self {
        Self(Arc::new(Inner {
            node,
            worker,
            per_address: RateLimit::new(limits.per_second_and_address, limits.burst_per_address),
            // A second's worth at once.
            in_all: RateLimit::new(limits.per_second, limits.per_second),
            limits,
        }))
    }

    /// Who this node says it is.
    pub(crate) fn identify(&self, address: IpAddr) -> Result<StatedNode, DeskError> {
        // Not counted against everybody: it costs nothing but a copy.
        self.admit(address)?;
        Ok(self.stated(self.0.worker.claim()?))
    }

    /// A statement.
    pub(crate) async fn state(
        &self,
        address: IpAddr,
        request: StatementRequest,
    ) -> Result<(StatedNode, Attested), DeskError> {
        self.admit(address)?;
        let now = Instant::now();
        if !self.0.in_all.admit((), now) {
            return Err(DeskError::All);
        }
        let NodeIdentity { name, cluster, .. } = &self.0.node;
        let binding = StatementBinding::compute(&Subject {
            nonce: &request.nonce,
            cluster,
            node: name,
        });
        let deadline = now + self.0.limits.request_seconds.duration();
        let state = self.0.worker.state(binding, request.challenge, deadline);
        let Made { claim, attested } = state.await?;
        Ok((self.stated(claim), attested))
    }

    /// The certificate of the key in `claim`, where it is the one that was certified. A TPM whose seed
    /// changed makes another key, and then there is none.
    pub(crate) fn certificate(&self, claim: &AttesterClaim) -> Option<&Value> {
        let (AttesterClaim::Tpm(tpm), Some(key)) = (claim, &self.0.node.key) else {
            return None;
        };
        (tpm.ak_public == key.public).then_some(&key.certificate)
    }

    fn admit(&self, address: IpAddr) -> Result<(), DeskError> {
        if self.0.per_address.admit(network(address), Instant::now()) {
            return Ok(());
        }
        Err(DeskError::Address)
    }

    fn stated(&self, claim: AttesterClaim) -> StatedNode {
        StatedNode {
            name: self.0.node.name.clone(),
            cluster: self.0.node.cluster,
            claim,
        }
    }
}

/// Counts an answer.
pub(crate) fn count(path: &'static str, answer: Result<(), DeskError>) {
    let outcome = match answer {
        Ok(()) => "stated",
        Err(DeskError::Address) => "address-limit",
        Err(DeskError::All | DeskError::Worker(WorkerError::Queue)) => "busy",
        Err(DeskError::Worker(WorkerError::Device)) => "no-device",
        Err(DeskError::Worker(WorkerError::Challenge | WorkerError::Unchallenged)) => "malformed",
    };
    count_outcome(path, outcome);
}

/// Counts an answer that no question came to.
pub(crate) fn count_outcome(path: &'static str, outcome: &'static str) {
    metrics::counter!("statements_total", "path" => path, "outcome" => outcome).increment(1);
}
