//! The program from its start to its end.

use crate::{
    clients::ADMIN_KUBECONFIG,
    config::Config,
    etcd,
    file::{self, FileError},
    node::{Material, Node, NodeError},
    phase::{self, RunError},
    progress::{ProgressError, ProgressServer, ResultFiles},
    routes,
    services::NODE_RECORD,
};
use service_runtime::{Shutdown, program::Service, shutdown::Trigger};

/// The program.
#[derive(Debug)]
pub enum Bootstrapper {}

/// Why the bootstrapper stopped. It is started again by the service manager.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// Material that is not needed any more cannot be deleted.
    #[error("used material stays behind")]
    Material(#[source] FileError),
    /// There is nothing to make a node of.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Nobody could follow the run.
    #[error(transparent)]
    Progress(#[from] ProgressError),
    /// A phase failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Service for Bootstrapper {
    type Config = Config;
    type Error = BootstrapError;
    const NAME: &'static str = "bootstrapper";

    async fn run(config: Config, shutdown: Shutdown) -> Result<(), BootstrapError> {
        let mut node = Node::read(config).await?;
        tracing::info!(
            path = %node.hand_off.path,
            node = %node.hand_off.node_name,
            role = %node.hand_off.role,
            address = %node.address,
            "a node is made"
        );
        let followed = follow(&node).await?;
        let run = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            run = phase::run(&mut node) => run,
        };
        let error = run.as_ref().err();
        node.progress
            .ended(error.map(|error| phase::advice(error, &node.material)));
        if let Err(error) = run {
            close(followed).await;
            return Err(error.into());
        }
        // Secrets of an init are in the cluster now; the file follows when the operator has the result.
        node.material = Material::None;
        tracing::info!(node = %node.hand_off.node_name, "this node is ready");
        let finish = async {
            tokio::select! {
                () = shutdown.requested() => Ok(()),
                finished = finish(&node, followed) => finished,
            }
        };
        let (finished, (), ()) = tokio::join!(
            finish,
            routes::keep(&node, &shutdown),
            etcd::keep(&node, &shutdown)
        );
        finished
    }
}

/// Lets the CLI follow, where there is one.
async fn follow(node: &Node) -> Result<Option<(ProgressServer, Trigger)>, ProgressError> {
    let Material::Init(material) = &node.material else {
        return Ok(None);
    };
    let (trigger, shutdown) = Shutdown::new();
    let result = ResultFiles {
        kubeconfig: ADMIN_KUBECONFIG.into(),
        node_record: node.config.state.join(NODE_RECORD),
    };
    let address = node.config.progress_listen;
    let shared = (std::sync::Arc::clone(&node.progress), result);
    let server = ProgressServer::start(address, &material.progress, shared, shutdown).await?;
    Ok(Some((server, trigger)))
}

/// Waits until the operator has the result, then deletes what is not needed any more.
async fn finish(
    node: &Node,
    followed: Option<(ProgressServer, Trigger)>,
) -> Result<(), BootstrapError> {
    if let Some((server, _)) = &followed {
        server.finished.wait().await;
        tracing::info!("the operator has the result");
    }
    close(followed).await;
    let folder = &node.config.hand_off;
    for name in [
        hand_off::MATERIAL,
        hand_off::KUBELET_CLIENT_KEY,
        hand_off::KUBELET_SERVING_KEY,
    ] {
        file::delete(&folder.join(name)).map_err(BootstrapError::Material)?;
    }
    Ok(())
}

async fn close(followed: Option<(ProgressServer, Trigger)>) {
    if let Some((server, trigger)) = followed {
        trigger.request();
        server.closed().await;
    }
}
