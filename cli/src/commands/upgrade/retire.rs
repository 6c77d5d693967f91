//! `constellation upgrade retire`: an image that no node runs any more is refused from now on.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use super::{
    REFUSED, UNAVAILABLE, Where,
    changes::named,
    end,
    images::{Amendment, Signer, sign_next},
};
use crate::{
    cluster_file::ClusterFile,
    commands::verify::{Finding, Outcome as Verdict, Places, Verifier, ask_all},
    kubernetes::{Cluster, Member},
    output::{OutputFormat, table},
    rules::RulesArgs,
};

/// How long one node may take to be asked.
const QUESTION: Duration = Duration::from_secs(30);

/// Sign the values without an image that no node runs any more, and bring them into force.
///
/// Every node is asked for evidence first: one that runs the image, or does not prove what it runs, keeps it
/// from being retired. An image that must not run any longer, whatever its nodes do, is removed with
/// `reference-values remove`, `reference-values sign` and `upgrade reference-values --lock-out`.
#[derive(Args, Debug)]
pub(crate) struct Retire {
    /// The image, by its name in the reference values
    image: String,
    #[command(flatten)]
    rules: RulesArgs,
    /// The parameters of the cluster, `cluster.json`
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    #[command(flatten)]
    signer: Signer,
    #[command(flatten)]
    cluster_access: Where,
    #[command(flatten)]
    places: Places,
}

impl Retire {
    pub(super) async fn run(self, output: OutputFormat) -> Result<()> {
        let owner = self.signer.open()?;
        let fingerprint = owner.public_key().fingerprint();
        let cluster = self.cluster_access.open().await?;
        let file = self.rules.reference_values();
        let change = Amendment::begin(&cluster, &owner, file).await?;
        let mut values = change.base.reference_values()?;
        let document = if named(&values, &self.image).is_some() {
            let (rules, endorsements) = self.rules.open(&fingerprint)?;
            let verifier = Verifier {
                rules,
                endorsements,
                cluster: ClusterFile::read(&self.cluster)?.cluster_id(),
            };
            let kept = Kept::ask(&cluster, verifier, &self.image, &self.places).await?;
            if !kept.nodes.is_empty() {
                output.print(&kept)?;
                return end(kept.status());
            }
            values.images.retain(|image| image.name != self.image);
            sign_next(values, &owner)?
        } else {
            eprintln!("`{}` is not in the reference values", self.image);
            change.base.clone()
        };
        let limit = self.cluster_access.limit();
        change.finish(&document, limit).await?.finish(output)
    }
}

/// Why the image stays.
#[derive(Serialize)]
struct Kept {
    image: String,
    result: &'static str,
    nodes: Vec<Keeper>,
}

#[derive(Serialize)]
struct Keeper {
    node: String,
    /// Whether it runs the image, as far as anybody knows.
    runs: bool,
    reason: String,
}

impl Kept {
    /// The nodes for which the image has to stay.
    async fn ask(
        cluster: &Cluster,
        verifier: Verifier,
        image: &str,
        places: &Places,
    ) -> Result<Self> {
        let members = cluster.members().await?;
        let targets = places.targets(&members)?;
        let findings = ask_all(&Arc::new(verifier), targets, QUESTION).await?;
        let nodes = members.iter().zip(&findings);
        let nodes = nodes.filter_map(|(member, finding)| Keeper::of(member, finding, image));
        Ok(Self {
            image: image.to_owned(),
            result: "refused",
            nodes: nodes.collect(),
        })
    }

    fn status(&self) -> u8 {
        match self.nodes.iter().any(|node| node.runs) {
            true => REFUSED,
            false => UNAVAILABLE,
        }
    }
}

impl Keeper {
    fn of(member: &Member, finding: &Finding, image: &str) -> Option<Self> {
        let recorded = member.record.as_ref().map(|record| &record.image);
        let recorded = recorded.is_some_and(|recorded| recorded == image);
        let (runs, reason) = match &finding.outcome {
            Verdict::Verified(proven) if proven.image == image => {
                (true, format!("is verified as `{image}`"))
            }
            // Its next boot is what counts, and it may still be asked to make one.
            Verdict::Verified(_) if recorded => (true, format!("was admitted with `{image}`")),
            Verdict::Verified(_) => return None,
            Verdict::Unavailable { error } => (recorded, format!("gives no evidence: {error}")),
            Verdict::Refused(_) => (
                recorded,
                "is refused, see `constellation verify`".to_owned(),
            ),
        };
        Some(Self {
            node: member.name.clone(),
            runs,
            reason,
        })
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self
            .nodes
            .iter()
            .map(|node| [node.node.clone(), node.reason.clone()]);
        f.write_str(&table(&["NODE", "WHY"], rows))?;
        writeln!(f, "Image `{}` is not retired", self.image)
    }
}
