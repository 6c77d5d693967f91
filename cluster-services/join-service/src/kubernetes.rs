//! The join service in a cluster: records, documents and kubelet certificates are the API server's.
//!
//! Nothing here is remembered that a decision rests on; each request reads what it needs by quorum. So
//! any replica answers any request, and a restart of the API server costs no more than the time it
//! takes.

mod certificates;
mod documents;
mod nodes;
mod requests;

pub use certificates::{CertificateError, Certificates, ISSUE_TIMEOUT};
pub use documents::{ConfigMapError, ConfigMapWatch, READY};
pub use nodes::NodeWatch;
pub use requests::{CheckedRequests, ParsedRequests, RequestError, Signer};

use crate::{failure::Failure, tickets::now};
use admission::{OperatorAction, RecordState, Timestamp, operate};
use audit::{Action, Outcome, RecordEvent, Text};
use hand_off::{ControlPlaneFiles, JoinMaterial};
use identity::{DiskId, KeyVersion, NodeName, Role};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_store::{CALL_TIMEOUT, ClusterFacts, KubeStore, ObservedNode};
use service_runtime::{audit_log::AuditLog, watch::Watched};
use std::{net::IpAddr, path::Path, time::Duration};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Where kubelets renew their leases.
const LEASES: &str = "kube-node-lease";

/// The longest lease that is believed. The kubelet's is 40 s.
const MAX_LEASE: i32 = 3600;

/// Room for the material of a control-plane node, so that no buffer is outgrown and left behind.
const MATERIAL: usize = 256 << 10;

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The configuration does not make a client.
    #[error("cannot set up a client of the API server")]
    Client(#[source] Box<kube::Error>),
    /// There is no ServiceAccount here.
    #[error("no ServiceAccount in this pod")]
    InCluster(#[source] kube::config::InClusterError),
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
}

/// A Node or a Lease cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookError {
    /// The API server does not say.
    #[error("cannot get {what} {name}")]
    Api {
        /// What was asked for.
        what: &'static str,
        /// Its name.
        name: NodeName,
        /// What was said.
        source: Box<kube::Error>,
    },
    /// No answer in time.
    #[error("no answer in time to get {what} {name}")]
    Timeout {
        /// What was asked for.
        what: &'static str,
        /// Its name.
        name: NodeName,
    },
}

/// The cluster that this service is part of. Clones use the same connection.
#[derive(Clone)]
pub struct Kubernetes {
    store: KubeStore,
    nodes: Api<Node>,
    leases: Api<Lease>,
    certificates: Certificates,
    facts: Watched<ClusterFacts>,
    audit: AuditLog,
    key_version: KeyVersion,
}

/// What the cluster says about the disk of a rejoin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The recorded name and role.
    pub node: Option<(NodeName, Role)>,
    /// Until when its lease is live.
    pub live_until: Option<Timestamp>,
}

/// A client by the pod's ServiceAccount, or by a kubeconfig if one is named.
///
/// # Errors
/// [`ConnectError`]; nothing else is tried.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        None => Config::incluster().map_err(ConnectError::InCluster)?,
        Some(path) => {
            let wrong = |error| ConnectError::Kubeconfig(Box::new(error));
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(wrong)?
        }
    };
    config.connect_timeout = Some(CALL_TIMEOUT);
    // Nodes try again by themselves, and every call here has its own time limit.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}

impl Kubernetes {
    /// The cluster that `client` talks to.
    #[must_use]
    pub fn new(
        client: Client,
        facts: Watched<ClusterFacts>,
        audit: AuditLog,
        key_version: KeyVersion,
    ) -> Self {
        Self {
            store: KubeStore::new(client.clone()),
            nodes: Api::all(client.clone()),
            leases: Api::namespaced(client.clone(), LEASES),
            certificates: Certificates::new(client),
            facts,
            audit,
            key_version,
        }
    }

    /// The records.
    #[must_use]
    pub const fn store(&self) -> &KubeStore {
        &self.store
    }

    /// Judges what a node asks to be certified, before anything is decided for it.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn check(
        &self,
        requests: ParsedRequests,
        (node, role): (&NodeName, Role),
        peer: IpAddr,
    ) -> Result<CheckedRequests, RequestError> {
        requests.check(node, role, peer, &self.facts.current().kubernetes)
    }

    /// What the cluster knows about the disk of a rejoin. A worker whose node was deleted is retired by
    /// that: its disk gets no key, even if nobody watched when it was deleted.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn look_at(&self, disk: DiskId) -> Result<Known, Failure> {
        let record = self.store.node(disk).await.map_err(Failure::KubeStore)?;
        let Some(observed) = record.filter(|observed| !observed.record.is_tombstone()) else {
            return Ok(Known::default());
        };
        let name = observed.record.node.clone();
        let ((), live_until) = tokio::try_join!(self.reconcile(&observed), self.live_until(&name))?;
        Ok(Known {
            node: Some((name, observed.record.role)),
            live_until,
        })
    }

    /// Certificates and all else that makes a node of the cluster, as it is sealed.
    ///
    /// # Errors
    /// [`Failure`]; asking again loses nothing.
    pub async fn material(
        &self,
        requests: &CheckedRequests,
        control_plane: Option<ControlPlaneFiles>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let issued = self.certificates.issue(requests).await;
        let material = JoinMaterial {
            version: 1,
            kubernetes: self.facts.current().kubernetes.clone(),
            kubelet: issued.map_err(Failure::Certificate)?,
            control_plane,
        };
        let mut text = Zeroizing::new(Vec::with_capacity(MATERIAL));
        serde_json::to_writer(&mut *text, &material).map_err(|_| Failure::Grant)?;
        Ok(text)
    }

    /// Brings one record and the Node of its name together.
    ///
    /// A Node that is there is observed. A Node that was observed and is gone, or has another uid, was
    /// deleted: a worker is retired. Without a Commit a disk has no Node. A control-plane name is freed
    /// by the operator's `node forget` alone.
    async fn reconcile(&self, observed: &ObservedNode) -> Result<(), Failure> {
        let record = &observed.record;
        if record.state != RecordState::Active {
            return Ok(());
        }
        let (before, uid) = (&observed.node_uid, self.node_uid(&record.node).await?);
        if *before == uid {
            return Ok(());
        }
        if before.is_some() && record.role == Role::Worker {
            return self.retire(record.disk, &record.node).await;
        }
        let Some(uid) = uid else { return Ok(()) };
        let seen = self.store.observe_node(record.disk, &uid).await;
        seen.map(drop).map_err(Failure::KubeStore)
    }

    /// Refuses a new node that would find a Node of its name. It has none before its Commit, so one that is
    /// there is another's: the Secrets of the pods bound to it are that one's.
    ///
    /// # Errors
    /// [`Failure::NodeExists`]; or when the API server does not say.
    pub async fn refuse_existing_node(&self, name: &NodeName) -> Result<(), Failure> {
        match self.node_uid(name).await? {
            None => Ok(()),
            Some(_) => Err(Failure::NodeExists(name.clone())),
        }
    }

    /// [`OperatorAction::Retire`], with its audit line.
    async fn retire(&self, disk: DiskId, node: &NodeName) -> Result<(), Failure> {
        let action = OperatorAction::Retire { disk };
        let context = admission::Context {
            now: now(),
            key_version: self.key_version,
            live_until: None,
        };
        let settled = self
            .store
            .settle(|snapshot| operate(&action, &context, snapshot));
        let persisted = settled.await?;
        tracing::warn!(%node, %disk, "its Node was deleted: retired");
        metrics::counter!("nodes_retired_total").increment(1);
        let nothing = || RecordEvent::new(Action::OperatorAction, Outcome::Done, action.name());
        let mut event = persisted.event().cloned().unwrap_or_else(nothing);
        event.path = Some(Text::new("deleted Node"));
        self.audit.record(event).await.map_err(Failure::Audit)
    }

    /// The uid of the Node of this name, by quorum.
    async fn node_uid(&self, name: &NodeName) -> Result<Option<String>, LookError> {
        let node = self.nodes.get_metadata_opt(name.as_str());
        let node = look("Node", name, node).await?;
        Ok(node.and_then(|node| node.metadata.uid))
    }

    /// Until when the node says that it runs: by its own clock, so this keeps an honest node and a
    /// forgotten clone apart, and nobody who sets its clock.
    async fn live_until(&self, name: &NodeName) -> Result<Option<Timestamp>, Failure> {
        let lease = self.leases.get_opt(name.as_str());
        let lease = look("Lease", name, lease).await?;
        Ok(lease.and_then(|lease| end(&lease)))
    }
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubernetes")
    }
}

fn end(lease: &Lease) -> Option<Timestamp> {
    let spec = lease.spec.as_ref()?;
    let renewed = spec.renew_time.as_ref()?.0.as_second();
    let seconds = spec.lease_duration_seconds?.clamp(0, MAX_LEASE);
    let end = renewed.checked_add(seconds.into())?;
    u64::try_from(end).ok().map(Timestamp)
}

async fn look<T>(
    what: &'static str,
    name: &NodeName,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, LookError> {
    let name = name.clone();
    match timeout(CALL_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(LookError::Api {
            what,
            name,
            source: Box::new(error),
        }),
        Err(_) => Err(LookError::Timeout { what, name }),
    }
}

/// How long a ticket may take beyond the key service: a decision and two certificates.
pub const TICKET_TIMEOUT: Duration = Duration::from_secs(25);
