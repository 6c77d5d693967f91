//! A running cluster, by the operator's kubeconfig.

use admission::{
    Context as AdmissionContext, NodeRecord, OperatorAction, RecordState, Timestamp, operate,
};
use anyhow::{Context as _, Result};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Node, NodeCondition},
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_store::{
    CLUSTER_CONFIG_MAP, ClusterFacts, DecisionError, KubeStore, NAMESPACE, StoreError,
};
use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    admit::class,
    output::{ExitStatus, WithHint as _},
    records::Records,
};

/// The longest that one request may take.
const REQUEST: Duration = Duration::from_secs(30);

/// The API server of a cluster.
pub(crate) struct Cluster {
    client: Client,
    store: KubeStore,
}

/// A node, as Kubernetes and the join service know it.
pub(crate) struct Member {
    /// Its name, in both.
    pub(crate) name: String,
    /// The node object, unless there is none any more, or none yet.
    pub(crate) node: Option<Node>,
    /// Its record, unless it was not admitted by a join service of ours.
    pub(crate) record: Option<NodeRecord>,
}

impl Cluster {
    /// Reads the kubeconfig; nobody is asked yet.
    pub(crate) async fn open(kubeconfig: &Path) -> Result<Self> {
        let file = Kubeconfig::read_from(kubeconfig)
            .with_context(|| format!("read `{}`", kubeconfig.display()))
            .hint("`constellation init` leaves one in its workspace")?;
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("use `{}`", kubeconfig.display()))?;
        config.connect_timeout = Some(REQUEST);
        config.read_timeout = Some(REQUEST);
        // It would hide for minutes why an eviction is refused. Who waits here, waits in a loop of its own.
        config.default_retry = false;
        let client = Client::try_from(config).context("make a Kubernetes client")?;
        let store = KubeStore::new(client.clone());
        Ok(Self { client, store })
    }

    /// For what only one verb asks.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The admission core's objects.
    pub(crate) const fn store(&self) -> &KubeStore {
        &self.store
    }

    /// Every node object and every live record, matched by name, in the order of their names.
    pub(crate) async fn members(&self) -> Result<Vec<Member>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await;
        let nodes = nodes.context("list nodes")?;
        let records = self.store.nodes().await.context("list node records")?;
        let mut records: Vec<NodeRecord> = records
            .into_iter()
            .filter(|record| !record.is_tombstone())
            .collect();
        // An active one before one that was only issued: the name's disk is that.
        records.sort_by_key(|record| record.state != RecordState::Active);
        let mut members = Vec::new();
        for node in nodes {
            let name = node.name_any();
            let at = records
                .iter()
                .position(|record| record.node.as_str() == name);
            members.push(Member {
                record: at.map(|at| records.remove(at)),
                node: Some(node),
                name,
            });
        }
        members.extend(records.into_iter().map(|record| Member {
            name: record.node.to_string(),
            node: None,
            record: Some(record),
        }));
        members.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(members)
    }

    /// All records, tombstones included, and what boots without a latch got.
    pub(crate) async fn records(&self) -> Result<Records> {
        let mut nodes = self.store.nodes().await.context("list node records")?;
        nodes.sort_by_key(|record| record.disk);
        let mut boots = self.store.spent_boots().await.context("list claims")?;
        boots.retain(|claim| !claim.attester.names_machine());
        Ok(Records {
            nodes: nodes.into_iter().map(Into::into).collect(),
            boots,
        })
    }

    /// Changes a record as the operator. The API server's audit log has who did it.
    pub(crate) async fn operate(&self, action: &OperatorAction) -> Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let context = AdmissionContext {
            now: Timestamp(since.unwrap_or_default().as_secs()),
            key_version: self.facts().await?.key_version,
            live_until: None,
        };
        let settled = self
            .store
            .settle(|snapshot| operate(action, &context, snapshot))
            .await;
        settled
            .map(|persisted| drop(persisted.audited()))
            .map_err(|error| {
                let refused = match &error {
                    DecisionError::Refused(refusal) => Some(ExitStatus::of(class(refusal))),
                    _ => None,
                };
                let error = anyhow::Error::new(error);
                match refused {
                    Some(status) => error.context(status),
                    None => error,
                }
            })
            .with_context(|| action.name())
    }

    /// What everybody in it knows about it.
    pub(crate) async fn facts(&self) -> Result<ClusterFacts> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let map = maps.get(CLUSTER_CONFIG_MAP).await;
        let map = map.context("read the cluster's parameters")?;
        ClusterFacts::parse(&map).context("the cluster's parameters")
    }

    /// Our services.
    pub(crate) async fn services(&self) -> Result<Vec<DaemonSet>> {
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        let sets = sets.list(&ListParams::default()).await;
        Ok(sets.context("list services")?.items)
    }
}

/// Whether it failed because the API server does not answer, or not yet.
pub(crate) fn is_unavailable(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let store = cause.downcast_ref::<StoreError>();
        let server = cause.downcast_ref::<kube::Error>();
        store.is_some_and(StoreError::is_unavailable)
            || server.is_some_and(kube_store::is_unavailable)
    })
}

impl Member {
    /// The address that other machines of its network reach it by.
    pub(crate) fn address(&self) -> Option<&str> {
        let status = self.node.as_ref()?.status.as_ref()?;
        let mut addresses = status.addresses.iter().flatten();
        let address = addresses.find(|address| address.type_ == "InternalIP")?;
        Some(&address.address)
    }

    /// Whether its kubelet says that it is.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready().is_some_and(|ready| ready.status == "True")
    }

    /// When its kubelet said so last, in seconds since 1970.
    pub(crate) fn heartbeat(&self) -> Option<u64> {
        let time = self.ready()?.last_heartbeat_time.as_ref()?;
        u64::try_from(time.0.as_second()).ok()
    }

    /// What its kubelet said last about itself.
    pub(crate) fn ready(&self) -> Option<&NodeCondition> {
        let status = self.node.as_ref()?.status.as_ref()?;
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == "Ready")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_starts_is_worth_another_try_and_a_refusal_is_not() {
        let answered = |code| {
            let status = kube::core::Status {
                code,
                ..kube::core::Status::default()
            };
            let error = kube::Error::Api(Box::new(status));
            is_unavailable(&anyhow::Error::new(error).context("read the nodes"))
        };
        assert!([429, 500, 503].into_iter().all(answered));
        assert!(![403, 404, 409].into_iter().any(answered));
        assert!(!is_unavailable(&anyhow::anyhow!("no such file")));
    }
}
