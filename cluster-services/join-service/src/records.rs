//! Where decisions are made durable: a file of this service's own, or the cluster.

use crate::{failure::Failure, store::Store};
use admission::{Persisted, Refusal, Snapshot, Step};
use kube_store::KubeStore;

/// The one place where the records are.
#[derive(Debug, Clone)]
pub enum Records {
    /// The API server.
    Cluster(KubeStore),
    /// The embedded store.
    File(Store),
}

impl Records {
    /// Lets the core decide, and calls `then` when what it decided on is durable, or will not be. That is
    /// on another thread or task: it must neither wait nor work. A peer that is gone stops nothing.
    pub fn settle_then<D>(
        &self,
        decide: D,
        then: impl FnOnce(Result<Persisted, Failure>) + Send + 'static,
    ) where
        D: Fn(&Snapshot) -> Result<Step, Refusal> + Send + 'static,
    {
        match self {
            Self::File(store) => {
                store.settle_then(decide, move |settled| then(settled.map_err(Failure::from)));
            }
            Self::Cluster(store) => {
                let store = store.clone();
                tokio::spawn(
                    async move { then(store.settle(decide).await.map_err(Failure::from)) },
                );
            }
        }
    }
}
