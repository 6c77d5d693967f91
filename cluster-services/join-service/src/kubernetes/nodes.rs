//! Deleted nodes: `kubectl delete node` buries the disk of a worker.
//!
//! The watch only says where to look; what is done follows from quorum reads, in
//! [`Kubernetes::reconcile`], and the same is done when a disk asks to rejoin. Every replica watches;
//! they do the same thing, once.

use super::Kubernetes;
use crate::failure::Failure;
use admission::{Key, Value};
use api::Class;
use futures_util::{StreamExt, pin_mut};
use identity::NodeName;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use service_runtime::{Chain, Shutdown};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How soon names are looked at again that could not be.
const RETRY: Duration = Duration::from_secs(5);

/// Watches the nodes of the cluster.
#[derive(Debug)]
pub struct NodeWatch {
    kubernetes: Kubernetes,
    /// The uid of each node that was reconciled.
    settled: BTreeMap<NodeName, String>,
    /// Names to look at.
    dirty: BTreeSet<NodeName>,
    /// Whether to look at the names of all records.
    all: bool,
}

type Seen = PartialObjectMeta<Node>;

impl NodeWatch {
    /// A watch that has seen nothing.
    #[must_use]
    pub const fn new(kubernetes: Kubernetes) -> Self {
        Self {
            kubernetes,
            settled: BTreeMap::new(),
            dirty: BTreeSet::new(),
            all: false,
        }
    }

    /// Watches until shutdown.
    pub async fn run(mut self, client: Client, shutdown: Shutdown) {
        let nodes: Api<Seen> = Api::all(client);
        let events = watcher(nodes, watcher::Config::default()).default_backoff();
        pin_mut!(events);
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(error)) => {
                        tracing::warn!(error = %Chain(&error), "cannot watch nodes");
                    }
                    None => return,
                },
                () = tokio::time::sleep(RETRY), if self.all || !self.dirty.is_empty() => {}
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = self.look() => {}
            }
        }
    }

    fn take(&mut self, event: Event<Seen>) {
        match event {
            Event::Apply(node) | Event::InitApply(node) => {
                let (Some(name), uid) = (name(&node), node.metadata.uid) else {
                    return;
                };
                if self.settled.get(&name) != uid.as_ref() {
                    self.dirty.insert(name);
                }
            }
            Event::Delete(node) => {
                if let Some(name) = name(&node) {
                    self.settled.remove(&name);
                    self.dirty.insert(name);
                }
            }
            // Whatever was deleted while nobody watched is missing now.
            Event::Init => self.settled.clear(),
            Event::InitDone => self.all = true,
        }
    }

    /// Looks at all names that have changed. Without an API server the rest waits for the next time; a
    /// name that cannot be looked at for another reason waits for its next event.
    async fn look(&mut self) {
        if self.all {
            match self.kubernetes.store.nodes().await {
                Ok(records) => {
                    let live = records.into_iter().filter(|record| !record.is_tombstone());
                    self.dirty.extend(live.map(|record| record.node));
                    self.all = false;
                }
                Err(error) => tracing::warn!(error = %Chain(&error), "cannot list records"),
            }
        }
        while let Some(name) = self.dirty.pop_first() {
            match self.kubernetes.reconcile_name(&name).await {
                Ok(Some(uid)) => drop(self.settled.insert(name, uid)),
                Ok(None) => {}
                Err(failure) => {
                    tracing::warn!(%name, error = %Chain(&failure), "cannot look at a node");
                    if failure.class() == Class::Unavailable {
                        self.dirty.insert(name);
                        return;
                    }
                }
            }
        }
    }
}

impl Kubernetes {
    /// Reconciles whatever disk has the name. Gives the uid of the Node, if its record knows it now.
    async fn reconcile_name(&self, name: &NodeName) -> Result<Option<String>, Failure> {
        let claim = self.store.read(&Key::Name(name.clone())).await;
        let Some(Value::Claim(claim)) = claim.map_err(Failure::KubeStore)? else {
            return Ok(None);
        };
        let observed = self.store.node(claim.disk).await;
        let Some(observed) = observed.map_err(Failure::KubeStore)? else {
            return Ok(None);
        };
        self.reconcile(&observed).await?;
        let observed = self.store.node(claim.disk).await;
        let observed = observed.map_err(Failure::KubeStore)?;
        Ok(observed.and_then(|observed| observed.node_uid))
    }
}

/// A Node whose name is none of ours belongs to no record.
fn name(node: &Seen) -> Option<NodeName> {
    node.metadata.name.as_deref()?.parse().ok()
}
