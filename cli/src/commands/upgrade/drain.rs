//! Pods leave a node by eviction, so that disruption budgets hold.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{EvictParams, ListParams},
};
use serde::Serialize;
use std::{
    fmt,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Which the kubelet sets on a pod that it has from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// How often a refused eviction is tried again.
const POLL: Duration = Duration::from_secs(2);

/// A pod that does not leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Blocker {
    pod: String,
    reason: String,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pod, self.reason)
    }
}

/// How to drain.
#[derive(Clone, Copy)]
pub(super) struct Drain<'a> {
    pub(super) client: &'a Client,
    pub(super) node: &'a str,
    pub(super) limit: Duration,
    /// Whether pods that nobody makes again may go.
    pub(super) delete_unmanaged: bool,
    /// Whether somebody on the node ends what is being deleted.
    pub(super) node_is_ready: bool,
}

impl Drain<'_> {
    /// Evicts what may be evicted until nothing is left; gives what is left when the time is over.
    pub(super) async fn run(self) -> Result<Vec<Blocker>> {
        let end = Instant::now() + self.limit;
        loop {
            let pods = self.pods().await?;
            if !self.delete_unmanaged {
                let unmanaged: Vec<_> = pods.iter().filter(|pod| is_unmanaged(pod)).collect();
                if !unmanaged.is_empty() {
                    let reason =
                        "nobody would make it again; give `--delete-unmanaged` if it may go";
                    return Ok(unmanaged.iter().map(|pod| blocker(pod, reason)).collect());
                }
            }
            let mut left = Vec::new();
            for pod in &pods {
                left.extend(self.evict(pod).await);
            }
            if left.is_empty() || Instant::now() >= end {
                return Ok(left);
            }
            sleep(POLL).await;
        }
    }

    async fn pods(&self) -> Result<Vec<Pod>> {
        let all: Api<Pod> = Api::all(self.client.clone());
        let here = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        let mut pods = all.list(&here).await.context("list pods")?.items;
        pods.retain(|pod| !stays(pod) && !self.is_gone(pod));
        Ok(pods)
    }

    /// A pod of a node that is down ends when the node is back.
    const fn is_gone(&self, pod: &Pod) -> bool {
        !self.node_is_ready && pod.metadata.deletion_timestamp.is_some()
    }

    /// Why a pod is still there, once its eviction was asked for.
    async fn evict(&self, pod: &Pod) -> Option<Blocker> {
        if pod.metadata.deletion_timestamp.is_some() {
            return Some(blocker(pod, "is ending"));
        }
        let namespace = pod.namespace().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        // The request names no version of the Eviction: each API server takes it as its own, policy/v1beta1
        // or policy/v1.
        match pods.evict(&pod.name_any(), &EvictParams::default()).await {
            Ok(_) => Some(blocker(pod, "is ending")),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(kube::Error::Api(status)) => Some(blocker(pod, &status.message)),
            Err(error) => Some(blocker(pod, &error.to_string())),
        }
    }
}

/// Pods of DaemonSets come back at once, those from files are the node's own, and what has ended is no
/// matter.
fn stays(pod: &Pod) -> bool {
    let of_daemon_set = controller(pod) == Some("DaemonSet");
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    of_daemon_set || ended || pod.annotations().contains_key(MIRROR)
}

fn is_unmanaged(pod: &Pod) -> bool {
    controller(pod).is_none() && pod.metadata.deletion_timestamp.is_none()
}

fn controller(pod: &Pod) -> Option<&str> {
    let mut owners = pod.owner_references().iter();
    let controller = owners.find(|owner| owner.controller == Some(true));
    controller.map(|owner| owner.kind.as_str())
}

fn blocker(pod: &Pod, reason: &str) -> Blocker {
    Blocker {
        pod: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
        reason: reason.to_owned(),
    }
}
