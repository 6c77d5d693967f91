//! Documents and facts from ConfigMaps, looked at again and again; the serials are in the store.
//!
//! Looking costs three quorum reads a replica every two seconds and has no state that could go stale,
//! which a watch would have.

use crate::{
    config::Serves,
    documents::{self, DocumentsError},
};
use appraisal::Appraiser;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use kube_store::{
    CALL_TIMEOUT, CLUSTER_CONFIG_MAP, ClusterError, ClusterFacts, KubeStore, NAMESPACE,
    POLICY_CONFIG_MAP, POLICY_KEY, REFERENCE_VALUES_CONFIG_MAP, REFERENCE_VALUES_KEY, SerialError,
    StoreError,
};
use owner::OwnerFingerprint;
use service_runtime::{Chain, Readiness, Shutdown, watch::Watched};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Why ConfigMaps do not come into force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigMapError {
    /// The API server does not give one out.
    #[error("cannot get ConfigMap {name}")]
    Api {
        /// The ConfigMap.
        name: &'static str,
        /// What was said.
        source: Box<kube::Error>,
    },
    /// The cluster became another one, or another owner's.
    #[error("ConfigMap {CLUSTER_CONFIG_MAP}: another cluster or owner than at the start")]
    Cluster,
    /// The documents are refused.
    #[error("documents")]
    Documents(#[source] DocumentsError),
    /// The facts are incomplete.
    #[error("facts about the cluster")]
    Facts(#[source] ClusterError),
    /// A ConfigMap has no such key.
    #[error("ConfigMap {name} has no `{key}`")]
    Missing {
        /// The ConfigMap.
        name: &'static str,
        /// The key.
        key: &'static str,
    },
    /// The owner is no fingerprint.
    #[error("ConfigMap {CLUSTER_CONFIG_MAP}: `owner` is no fingerprint")]
    Owner,
    /// No answer in time.
    #[error("no answer in time to get ConfigMap {name}")]
    Timeout {
        /// The ConfigMap.
        name: &'static str,
    },
}

impl ConfigMapError {
    /// Whether it may pass without anybody's doing.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Api { source, .. } => may_pass(source),
            Self::Documents(DocumentsError::KubeStore(SerialError::Store(error))) => match error {
                StoreError::Refused { source, .. } => may_pass(source),
                error => error.is_unavailable(),
            },
            _ => false,
        }
    }
}

/// An API server that has just started forbids everybody everything until it has read the roles, and does not
/// know tokens while it does not reach its store.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => true,
        error => kube_store::is_unavailable(error),
    }
}

/// How often the ConfigMaps are looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Its name in `/readyz`.
pub const READY: &str = "api-server";

/// What the three ConfigMaps say.
#[derive(Debug, Clone, PartialEq)]
struct Contents {
    documents: [Vec<u8>; 2],
    cluster: ConfigMap,
}

/// Looks at the ConfigMaps and brings what is new into force, whole or not at all.
#[derive(Debug)]
pub struct ConfigMapWatch {
    source: Source,
    serves: Serves,
    seen: Contents,
    rules: watch::Sender<Arc<Appraiser>>,
    facts: watch::Sender<Arc<ClusterFacts>>,
    readiness: Readiness,
}

struct Source {
    api: Api<ConfigMap>,
    store: KubeStore,
}

impl ConfigMapWatch {
    /// Looks for the first time.
    ///
    /// # Errors
    /// When there is nothing to begin with.
    pub async fn open(
        client: Client,
        readiness: Readiness,
    ) -> Result<(Self, Watched<Appraiser>, Watched<ClusterFacts>), ConfigMapError> {
        let source = Source {
            api: Api::namespaced(client.clone(), NAMESPACE),
            store: KubeStore::new(client),
        };
        let seen = source.read().await?;
        let (facts, serves) = seen.facts()?;
        let appraiser = source.load(&seen, &serves.owner).await?;
        documents::show(&appraiser);
        let (rules, in_force) = Watched::channel(appraiser);
        let (facts, known) = Watched::channel(facts);
        let watch = Self {
            source,
            serves,
            seen,
            rules,
            facts,
            readiness,
        };
        Ok((watch, in_force, known))
    }

    /// Whom the cluster says that it serves.
    #[must_use]
    pub const fn serves(&self) -> Serves {
        self.serves
    }

    /// Looks until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = sleep(INTERVAL) => {}
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let read = self.source.read().await;
        let reached = !matches!(
            read,
            Err(ConfigMapError::Api { .. } | ConfigMapError::Timeout { .. })
        );
        self.readiness.set(READY, reached);
        let contents = match read {
            Ok(contents) if contents == self.seen => return,
            Ok(contents) => contents,
            Err(error) => {
                refuse(&error);
                return;
            }
        };
        match self.load(&contents).await {
            Ok((appraiser, facts)) => {
                if contents.documents != self.seen.documents {
                    documents::show(&appraiser);
                    self.rules.send_replace(Arc::new(appraiser));
                }
                self.facts.send_replace(Arc::new(facts));
                metrics::counter!("reload_succeeded_total", "files" => FILES).increment(1);
                tracing::info!(files = FILES, "reloaded");
                self.seen = contents;
            }
            // What was refused is seen again, and refused again, until somebody repairs it.
            Err(error) => refuse(&error),
        }
    }

    /// Facts may change, but not into those of another cluster.
    async fn load(&self, contents: &Contents) -> Result<(Appraiser, ClusterFacts), ConfigMapError> {
        let (facts, serves) = contents.facts()?;
        let Serves { cluster, owner, .. } = self.serves;
        if (serves.cluster, serves.owner) != (cluster, owner) {
            return Err(ConfigMapError::Cluster);
        }
        Ok((self.source.load(contents, &owner).await?, facts))
    }
}

impl Contents {
    fn facts(&self) -> Result<(ClusterFacts, Serves), ConfigMapError> {
        let facts = ClusterFacts::parse(&self.cluster).map_err(ConfigMapError::Facts)?;
        let serves = Serves {
            cluster: facts.cluster_id,
            owner: facts.owner.parse().map_err(|_| ConfigMapError::Owner)?,
            key_version: facts.key_version,
        };
        Ok((facts, serves))
    }
}

/// What logs and metrics call it.
const FILES: &str = "policy and reference values";

fn refuse(error: &ConfigMapError) {
    metrics::counter!("reload_failed_total", "files" => FILES).increment(1);
    tracing::error!(
        files = FILES,
        error = %Chain(error),
        "not reloaded; the previous version stays in force"
    );
}

impl Source {
    async fn read(&self) -> Result<Contents, ConfigMapError> {
        let (policy, values, cluster) = tokio::try_join!(
            self.get(POLICY_CONFIG_MAP),
            self.get(REFERENCE_VALUES_CONFIG_MAP),
            self.get(CLUSTER_CONFIG_MAP),
        )?;
        Ok(Contents {
            documents: [
                text(&policy, POLICY_CONFIG_MAP, POLICY_KEY)?,
                text(&values, REFERENCE_VALUES_CONFIG_MAP, REFERENCE_VALUES_KEY)?,
            ],
            cluster: ConfigMap {
                data: cluster.data,
                ..ConfigMap::default()
            },
        })
    }

    /// A read without resource version: never from a watch cache.
    async fn get(&self, name: &'static str) -> Result<ConfigMap, ConfigMapError> {
        match timeout(CALL_TIMEOUT, self.api.get(name)).await {
            Ok(Ok(config_map)) => Ok(config_map),
            Ok(Err(error)) => Err(ConfigMapError::Api {
                name,
                source: Box::new(error),
            }),
            Err(_) => Err(ConfigMapError::Timeout { name }),
        }
    }

    async fn load(
        &self,
        contents: &Contents,
        owner: &OwnerFingerprint,
    ) -> Result<Appraiser, ConfigMapError> {
        let (appraiser, versions) =
            documents::parse(&contents.documents, owner).map_err(ConfigMapError::Documents)?;
        // Last, so that only documents that do come into force raise what is remembered.
        let raised = self.store.raise_serials(&versions).await;
        raised.map_err(|error| {
            ConfigMapError::Documents(match error {
                SerialError::Refused(refusal) => DocumentsError::Serial(refusal),
                error => DocumentsError::KubeStore(error),
            })
        })?;
        Ok(appraiser)
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

fn text(
    config_map: &ConfigMap,
    name: &'static str,
    key: &'static str,
) -> Result<Vec<u8>, ConfigMapError> {
    let text = config_map.data.as_ref().and_then(|data| data.get(key));
    let text = text.ok_or(ConfigMapError::Missing { name, key })?;
    Ok(text.clone().into_bytes())
}
