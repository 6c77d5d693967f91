//! Clients of the API server, as an administrator or as this node.

use crate::{error::PhaseError, kubelet};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{path::Path, time::Duration};

/// The administrator's kubeconfig, on control-plane nodes only.
pub const ADMIN_KUBECONFIG: &str = "/etc/kubernetes/admin.conf";

/// The field manager of everything that the bootstrapper applies.
pub const FIELD_MANAGER: &str = "constellation-bootstrapper";

/// The longest a single request may take; a watch ends earlier by itself.
const REQUEST: Duration = Duration::from_secs(30);

/// The administrator.
///
/// # Errors
/// [`PhaseError::Kubeconfig`].
pub async fn administrator() -> Result<Client, PhaseError> {
    client(ADMIN_KUBECONFIG).await
}

/// This node, with the kubelet's credentials. They change over time: make a client anew now and then.
///
/// # Errors
/// [`PhaseError::Kubeconfig`].
pub async fn node() -> Result<Client, PhaseError> {
    client(kubelet::KUBECONFIG).await
}

async fn client(path: &'static str) -> Result<Client, PhaseError> {
    let unusable =
        |source: Box<dyn std::error::Error + Send + Sync>| PhaseError::Kubeconfig { path, source };
    let kubeconfig =
        Kubeconfig::read_from(Path::new(path)).map_err(|error| unusable(error.into()))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable(error.into()))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(REQUEST);
    Client::try_from(config).map_err(|error| unusable(error.into()))
}
