//! The key service in a cluster: where its master secret, its certificates and its doubts come from.

mod authority;
mod claims;
mod identities;
mod material;

use crate::config::ClusterConfig;
pub use authority::AuthorityError;
use authority::ServiceAuthority;
pub use claims::ClaimError;
pub(crate) use claims::Claims;
pub(crate) use identities::Identities;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use key_hierarchy::KeyHierarchy;
use kube::{
    Api, Client, Config,
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use kube_store::{KubeStore, NAMESPACE};
pub use material::{FilesError, MasterSecretError};
use service_runtime::{Readiness, mtls::MtlsAcceptor};
use std::{path::Path, time::Duration};

/// Why there is no cluster to be a key service of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The service authority or a certificate cannot be made.
    #[error("cannot make the certificates of the services")]
    Authority(#[source] AuthorityError),
    /// The client of the API server cannot be made.
    #[error("cannot make a client of the API server")]
    Client(#[source] Box<kube::Error>),
    /// There is no service account.
    #[error("this is no pod with a service account, and no `kubeconfig` is configured")]
    InCluster(#[source] Box<InClusterError>),
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// The master secret cannot be loaded.
    #[error("cannot load the master secret")]
    MasterSecret(#[source] MasterSecretError),
}

/// What a key service in a cluster has beyond one alone.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) keys: KeyHierarchy,
    pub(crate) acceptor: MtlsAcceptor,
    pub(crate) gate: ClusterGate,
    pub(crate) identities: Identities,
}

/// What a release in a cluster is checked against, and what else may be released there.
#[derive(Debug)]
pub(crate) struct ClusterGate {
    pub(crate) claims: Claims,
    pub(crate) files: material::ControlPlaneFilesSource,
}

impl Cluster {
    /// Derives and loads everything; asks the API server for nothing yet.
    pub(crate) async fn new(
        config: &ClusterConfig,
        readiness: &Readiness,
    ) -> Result<Self, ClusterError> {
        let keys =
            material::master_secret(&config.master_secret).map_err(ClusterError::MasterSecret)?;
        let authority = ServiceAuthority::derive(&keys).map_err(ClusterError::Authority)?;
        let client = client(config.kubeconfig.as_deref()).await?;
        let (identities, acceptor) = Identities::new(
            authority,
            config,
            Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE),
            Api::<Secret>::namespaced(client.clone(), NAMESPACE),
            readiness.clone(),
        )
        .map_err(ClusterError::Authority)?;
        Ok(Self {
            keys,
            acceptor,
            gate: ClusterGate {
                claims: Claims::new(KubeStore::new(client)),
                files: material::ControlPlaneFilesSource::new(&config.control_plane_files),
            },
            identities,
        })
    }
}

/// Bounds of one request of the API server; callers wait less long than that in all.
const CONNECT: Duration = Duration::from_secs(3);
const READ: Duration = Duration::from_secs(5);

async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClusterError> {
    let failed = |error| ClusterError::Kubeconfig(Box::new(error));
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(failed)?
        }
        // The address that the kubelet gives every pod; no name service is needed for it.
        None => Config::incluster_env().map_err(|e| ClusterError::InCluster(Box::new(e)))?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    // "Unavailable" is an answer: the caller tries again, and another replica, too.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| ClusterError::Client(Box::new(error)))
}
