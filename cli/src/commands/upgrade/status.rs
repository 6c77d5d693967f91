//! `constellation upgrade status`: where a roll-out is.

use anyhow::Result;
use appraisal::document::{ImageDocument, ReferenceValuesDocument};
use clap::Args;
use identity::Role;
use owner::DocumentKind;
use serde::Serialize;
use std::{fmt, path::PathBuf};

use super::{
    changes::named,
    document::Held,
    mark::Mark,
    replicas::{self, Replica},
};
use crate::{
    documents,
    kubernetes::{Cluster, Member},
    output::{OutputFormat, table},
};

/// Show which images are accepted, which nodes run them, and what is next.
///
/// Images are those of the reference values that the owner signed. What a node runs is what it was admitted
/// with last; `constellation verify` asks it again.
#[derive(Args, Debug)]
pub(crate) struct Status {
    /// The owner's public key
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,
    /// The administrator's kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
}

impl Status {
    pub(super) async fn run(self, output: OutputFormat) -> Result<()> {
        let owner = documents::owner_public_key(&self.owner)?.fingerprint();
        let cluster = Cluster::open(&self.kubeconfig).await?;
        let held = Held::of(&cluster, owner).await?;
        let policy = held.read(DocumentKind::Policy).await?;
        let values = held.read(DocumentKind::ReferenceValues).await?;
        let values = values.reference_values()?;
        let members = cluster.members().await?;
        let mut nodes = Vec::new();
        for member in &members {
            nodes.push(NodeShown::of(member, &values));
        }
        let images = values.images.iter();
        output.print(&Shown {
            policy_serial: policy.serial(),
            reference_values_serial: values.serial,
            replicas: replicas::ask(&cluster, DocumentKind::ReferenceValues).await?,
            images: images.map(|image| ImageShown::of(image, &nodes)).collect(),
            next: next(&values, &nodes),
            nodes,
        })
    }
}

#[derive(Serialize)]
struct Shown {
    policy_serial: u64,
    reference_values_serial: u64,
    /// What each join service has of them.
    replicas: Vec<Replica>,
    images: Vec<ImageShown>,
    nodes: Vec<NodeShown>,
    next: String,
}

#[derive(Serialize)]
struct ImageShown {
    image: String,
    roles: Vec<Role>,
    nodes: usize,
}

#[derive(Serialize)]
struct NodeShown {
    node: String,
    role: Option<Role>,
    ready: bool,
    image: Option<String>,
    /// Whether it would be admitted again, by the name of its image.
    accepted: bool,
    cordoned: bool,
    /// The image that a roll-out is bringing it to.
    upgrading_to: Option<String>,
}

impl ImageShown {
    fn of(image: &ImageDocument, nodes: &[NodeShown]) -> Self {
        let runs = |node: &&NodeShown| node.image.as_ref() == Some(&image.name);
        Self {
            image: image.name.clone(),
            roles: image.roles.clone(),
            nodes: nodes.iter().filter(runs).count(),
        }
    }
}

impl NodeShown {
    fn of(member: &Member, values: &ReferenceValuesDocument) -> Self {
        let record = member.record.as_ref();
        let image = record.map(|record| record.image.clone());
        let spec = member.node.as_ref().and_then(|node| node.spec.as_ref());
        // A kubelet writes annotations of its own node. Only the name of an image that the owner signed is
        // shown, and taken for a step that is under way.
        let mark = member.node.as_ref().and_then(|node| Mark::of(node).ok()?);
        let to = mark.filter(|mark| named(values, &mark.image).is_some());
        let accepted = record.is_some_and(|record| {
            let image = named(values, &record.image);
            image.is_some_and(|image| image.roles.contains(&record.role))
        });
        Self {
            node: member.name.clone(),
            role: record.map(|record| record.role),
            ready: member.is_ready(),
            image,
            accepted,
            cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            upgrading_to: to.map(|mark| mark.image),
        }
    }

    fn row(&self) -> [String; 6] {
        let yes = |so| if so { "yes" } else { "NO" }.to_owned();
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            self.node.clone(),
            or_none(self.role.map(|role| role.to_string())),
            yes(self.ready),
            or_none(self.image.clone()),
            yes(self.accepted),
            match (&self.upgrading_to, self.cordoned) {
                (Some(image), _) => format!("on its way to {image}"),
                (None, true) => "cordoned".to_owned(),
                (None, false) => "-".to_owned(),
            },
        ]
    }
}

/// The step that a roll-out is at. The last image is taken for the new one: `add` puts it there.
fn next(values: &ReferenceValuesDocument, nodes: &[NodeShown]) -> String {
    let under_way = nodes.iter().find(|node| node.upgrading_to.is_some());
    if let Some((node, image)) =
        under_way.and_then(|node| Some((&node.node, node.upgrading_to.as_ref()?)))
    {
        return format!("constellation upgrade node {node} --to {image}");
    }
    let Some(newest) = values.images.last().filter(|_| values.images.len() > 1) else {
        return "nothing is under way".to_owned();
    };
    let fits = |node: &&NodeShown| node.role.is_some_and(|role| newest.roles.contains(&role));
    let mut old = nodes.iter().filter(fits);
    if let Some(node) = old.find(|node| node.image.as_ref() != Some(&newest.name)) {
        return format!(
            "constellation upgrade node {} --to {}",
            node.node, newest.name
        );
    }
    let unused = |image: &&ImageDocument| {
        image.name != newest.name
            && nodes
                .iter()
                .all(|node| node.image.as_ref() != Some(&image.name))
    };
    match values.images.iter().find(unused) {
        Some(image) => format!("constellation upgrade retire {}", image.name),
        None => "nothing is under way".to_owned(),
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let images = self.images.iter().map(|image| {
            let roles: Vec<_> = image.roles.iter().map(ToString::to_string).collect();
            [
                image.image.clone(),
                roles.join(","),
                image.nodes.to_string(),
            ]
        });
        f.write_str(&table(&["IMAGE", "ROLES", "NODES"], images))?;
        writeln!(f)?;
        let header = ["NODE", "ROLE", "READY", "IMAGE", "ACCEPTED", "ROLL-OUT"];
        f.write_str(&table(&header, self.nodes.iter().map(NodeShown::row)))?;
        writeln!(
            f,
            "\nPolicy {}, reference values {}",
            self.policy_serial, self.reference_values_serial
        )?;
        for replica in &self.replicas {
            writeln!(f, "Join service {replica}")?;
        }
        writeln!(f, "Next: {}", self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// How a node is shown whose kubelet wrote this annotation.
    fn shown(annotation: &str) -> (String, Vec<NodeShown>) {
        let values = json!({
            "version": 1,
            "serial": 1,
            "images": [{"name": "v2", "roles": ["worker"], "pcrs": {}}],
        });
        let values: ReferenceValuesDocument = serde_json::from_value(values).unwrap();
        let node = json!({
            "metadata": {
                "name": "worker-0",
                "annotations": {"constellation.internal/upgrade": annotation},
            },
        });
        let member = Member {
            name: "worker-0".to_owned(),
            node: Some(serde_json::from_value(node).unwrap()),
            record: None,
        };
        let nodes = vec![NodeShown::of(&member, &values)];
        (next(&values, &nodes), nodes)
    }

    #[test]
    fn a_node_says_no_command_to_the_operator() {
        let mark = |image: &str| {
            json!({"image": image, "uncordon": true, "replaced": false, "generation": 1, "boot": ""})
                .to_string()
        };
        let (next, nodes) = shown(&mark("v2"));
        assert_eq!(next, "constellation upgrade node worker-0 --to v2");
        assert_eq!(nodes[0].upgrading_to.as_deref(), Some("v2"));
        for annotation in [
            mark("v2; reboot"),
            mark("v2\u{1b}[2J"),
            "not a mark".to_owned(),
        ] {
            let (next, nodes) = shown(&annotation);
            assert_eq!(next, "nothing is under way", "{annotation:?}");
            assert_eq!(nodes[0].upgrading_to, None);
        }
    }
}
