//! Where a node is in its roll-out, kept on its Node object so that any operator can go on.

use anyhow::{Context as _, Result, bail};
use identity::Generation;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The annotation. It decides nothing about trust: at worst a node is drained twice.
const ANNOTATION: &str = "constellation.internal/upgrade";

/// How often a write is tried that a kubelet's write came before.
const TRIES: usize = 8;

/// What is under way on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    /// The image it is to run.
    pub(super) image: String,
    /// Whether it is to be uncordoned in the end: somebody else's cordon stays.
    pub(super) uncordon: bool,
    /// Whether the command that replaces its root disk has succeeded.
    pub(super) replaced: bool,
    /// Its record's generation before that; a larger one means that it was admitted again.
    pub(super) generation: Generation,
    /// The boot that was to end.
    pub(super) boot: String,
}

impl Mark {
    /// The mark of a node, if a roll-out is under way.
    pub(super) fn of(node: &Node) -> Result<Option<Self>> {
        let Some(text) = node.annotations().get(ANNOTATION) else {
            return Ok(None);
        };
        let mark = serde_json::from_str(text);
        mark.map(Some).with_context(|| {
            let name = node.name_any();
            format!(
                "annotation `{ANNOTATION}` of node `{name}`; `kubectl annotate node {name} {ANNOTATION}-` removes it"
            )
        })
    }

    /// Cordons the node and marks it. A mark for another image is replaced.
    pub(super) async fn set(
        nodes: &Api<Node>,
        name: &str,
        image: &str,
        generation: Generation,
    ) -> Result<Self> {
        for _ in 0..TRIES {
            let node = nodes.get(name).await.context("read the node")?;
            let old = Self::of(&node)?;
            let spec = node.spec.as_ref();
            let cordoned = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
            let mark = match old {
                Some(old) if old.image == image && cordoned => return Ok(old),
                Some(old) if old.image == image => old,
                old => Self {
                    image: image.to_owned(),
                    uncordon: old.map_or(!cordoned, |old| old.uncordon),
                    replaced: false,
                    generation,
                    boot: boot(&node).to_owned(),
                },
            };
            let patch = json!({
                "metadata": {
                    // Refused if the node that was read is not the newest any more.
                    "resourceVersion": node.resource_version(),
                    "annotations": {ANNOTATION: serde_json::to_string(&mark)?},
                },
                "spec": {"unschedulable": true},
            });
            if write(nodes, name, patch).await? {
                return Ok(mark);
            }
        }
        bail!("node `{name}` changes again and again")
    }

    /// Stores the mark in the place of the one there.
    pub(super) async fn store(&self, nodes: &Api<Node>, name: &str) -> Result<()> {
        let text = serde_json::to_string(self)?;
        let patch = json!({"metadata": {"annotations": {ANNOTATION: text}}});
        write(nodes, name, patch).await.map(drop)
    }

    /// Ends the roll-out of the node.
    pub(super) async fn clear(&self, nodes: &Api<Node>, name: &str) -> Result<()> {
        let mut patch = json!({"metadata": {"annotations": {ANNOTATION: null}}});
        if self.uncordon {
            patch["spec"] = json!({"unschedulable": null});
        }
        write(nodes, name, patch).await.map(drop)
    }
}

/// The boot of the kernel, as the kubelet says.
pub(super) fn boot(node: &Node) -> &str {
    let status = node.status.as_ref();
    let info = status.and_then(|status| status.node_info.as_ref());
    info.map_or("", |info| &info.boot_id)
}

/// Whether it was written; not if somebody else wrote before.
async fn write(nodes: &Api<Node>, name: &str, patch: Value) -> Result<bool> {
    let patched = nodes
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    match patched {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error).context("change the node"),
    }
}
