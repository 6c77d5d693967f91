//! `constellation upgrade node`: one node onto an image.

use admission::{NodeRecord, RecordState};
use anyhow::{Context as _, Result, anyhow, bail};
use appraisal::{Appraiser, ReferenceValues};
use clap::Args;
use identity::NodeName;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use owner::DocumentKind;
use serde::Serialize;
use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::time::sleep;

use super::{
    REFUSED, UNAVAILABLE,
    changes::named,
    document::Document,
    drain::{Blocker, Drain},
    end,
    mark::{Mark, boot},
    refusals::Refusals,
    replace::Replace,
    say,
};
use crate::{
    cluster_file::ClusterFile,
    commands::verify::{Finding, Outcome as Verdict, Places, Verifier},
    documents,
    kubernetes::{Cluster, Member},
    output::{OutputFormat, WithHint as _},
    rules::RulesArgs,
};

/// How often a node that is to come back is looked for.
const POLL: Duration = Duration::from_secs(2);

/// How long it may take to be asked once.
const QUESTION: Duration = Duration::from_secs(30);

/// Bring one node onto an image.
///
/// The node is cordoned and drained by evictions; pods of DaemonSets and of files stay. Its root disk is
/// replaced, by `--replace-with` or by you. When it was admitted with the image and is ready, it is asked for
/// fresh evidence, which must fit the values of that image alone; then it is uncordoned. To go back before
/// `retire`, name the old image.
#[derive(Args, Debug)]
pub(crate) struct Node {
    /// The node
    node: NodeName,
    /// The image, by its name in the reference values
    #[arg(long, value_name = "IMAGE")]
    to: String,
    /// The owner's public key
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,
    #[command(flatten)]
    rules: RulesArgs,
    /// The parameters of the cluster, `cluster.json`
    #[arg(long, value_name = "FILE")]
    cluster: PathBuf,
    /// The administrator's kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    replace: Replace,
    /// How long the pods may take to leave, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86400))]
    drain_timeout: u64,
    /// Evict pods, too, that nobody makes again elsewhere
    #[arg(long)]
    delete_unmanaged: bool,
    /// How long the node may take to come back and be verified, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
}

impl Node {
    pub(super) async fn run(self, output: OutputFormat) -> Result<()> {
        let verifier = self.verifier()?;
        let cluster = Cluster::open(&self.kubeconfig).await?;
        let nodes = Api::all(cluster.client().clone());
        let rollout = Rollout {
            arguments: &self,
            verifier,
            cluster,
            nodes,
        };
        let outcome = rollout.run().await?;
        let report = Report {
            node: &self.node,
            image: &self.to,
            outcome,
        };
        output.print(&report)?;
        end(report.status())
    }

    /// Judges by the values of the one image.
    fn verifier(&self) -> Result<Verifier> {
        let owner = documents::owner_public_key(&self.owner)?.fingerprint();
        let (rules, endorsements) = self.rules.open(&owner)?;
        let path = self.rules.reference_values();
        let mut values =
            Document::read(DocumentKind::ReferenceValues, path, &owner)?.reference_values()?;
        if named(&values, &self.to).is_none() {
            let error = anyhow!("`{}` has no image `{}`", path.display(), self.to);
            return Err(error).hint("`constellation upgrade add` signs its values");
        }
        values.images.retain(|image| image.name == self.to);
        let values = ReferenceValues::parse(&serde_json::to_vec(&values)?)?;
        Ok(Verifier {
            rules: Appraiser::new(rules.policy().clone(), values)?,
            endorsements,
            cluster: ClusterFile::read(&self.cluster)?.cluster_id(),
        })
    }
}

/// How it ended.
#[derive(Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
enum Outcome {
    /// It runs the image; what it proved.
    Done { verified: Finding },
    /// Pods do not leave.
    Blocked { pods: Vec<Blocker> },
    /// It did not come back; what join services refused meanwhile, of any machine.
    Waiting { refusals: Vec<String>, last: String },
    /// It came back with another image.
    OtherImage { got: String },
    /// It was admitted with the image, and its evidence does not fit.
    Refused { evidence: Finding },
}

struct Rollout<'a> {
    arguments: &'a Node,
    verifier: Verifier,
    cluster: Cluster,
    nodes: Api<NodeObject>,
}

impl Rollout<'_> {
    async fn run(&self) -> Result<Outcome> {
        let (name, to) = (&self.arguments.node, &self.arguments.to);
        // Before anything is drained.
        let members = self.cluster.members().await?;
        self.arguments.places.check(&members)?;
        let member = self.member().await?;
        let record = member.record.as_ref().context("a record")?;
        self.may_run(record)?;
        let before = member.node.as_ref().map(Mark::of).transpose()?.flatten();
        // A node that init made has a record without image.
        let may_run_it = record.image == *to || record.image.is_empty();
        if may_run_it && member.is_ready() {
            let finding = self.ask(&member).await?;
            if matches!(finding.outcome, Verdict::Verified(_)) {
                return self.done(before.as_ref(), finding).await;
            }
        }
        let retargeted = before.as_ref().is_some_and(|mark| mark.image != *to);
        if record.image == *to && !retargeted {
            // Replaced already, by an earlier run or another operator.
            return self.wait(before).await;
        }
        let generation = record.generation;
        let mut mark = Mark::set(&self.nodes, name.as_str(), to, generation).await?;
        say(name.as_str(), "cordoned");
        if !mark.replaced {
            let left = self.drain(&member).await?;
            if !left.is_empty() {
                return Ok(Outcome::Blocked { pods: left });
            }
            self.replace(&mut mark).await?;
        }
        self.wait(Some(mark)).await
    }

    /// The node, if it has a record, and a Node object.
    async fn member(&self) -> Result<Member> {
        let name = self.arguments.node.as_str();
        let members = self.cluster.members().await?;
        let mut members = members.into_iter().filter(|member| member.name == name);
        let member = members.next();
        let member = member.with_context(|| format!("there is no node `{name}`"))?;
        match (&member.node, &member.record) {
            (Some(_), Some(record)) if record.state == RecordState::Active => Ok(member),
            (_, Some(_)) => bail!("node `{name}` has not joined yet"),
            (_, None) => bail!("node `{name}` has no node record: no join service admitted it"),
        }
    }

    /// The role is the record's, and an image without it would be refused at the node's next boot.
    fn may_run(&self, record: &NodeRecord) -> Result<()> {
        let image = self.verifier.rules.reference_values().images();
        let image = image.first().context("an image")?;
        if image.roles().contains(&record.role) {
            return Ok(());
        }
        bail!("image `{}` is not for role {}", image.name(), record.role)
    }

    async fn ask(&self, member: &Member) -> Result<Finding> {
        match self.arguments.places.target(member) {
            Ok(target) => self.verifier.ask(target, QUESTION).await,
            Err(finding) => Ok(*finding),
        }
    }

    async fn drain(&self, member: &Member) -> Result<Vec<Blocker>> {
        let name = self.arguments.node.as_str();
        say(name, "draining");
        let drain = Drain {
            client: self.cluster.client(),
            node: name,
            limit: Duration::from_secs(self.arguments.drain_timeout),
            delete_unmanaged: self.arguments.delete_unmanaged,
            node_is_ready: member.is_ready(),
        };
        drain.run().await
    }

    async fn replace(&self, mark: &mut Mark) -> Result<()> {
        let name = self.arguments.node.as_str();
        // It may have restarted by itself while it was drained.
        let member = self.member().await?;
        mark.generation = member.record.map_or(mark.generation, |it| it.generation);
        mark.boot = member.node.as_ref().map_or("", boot).to_owned();
        mark.store(&self.nodes, name).await?;
        self.arguments.replace.run(name, &mark.image)?;
        if self.arguments.replace.is_command() {
            mark.replaced = true;
            // The only control-plane node is down now; without the mark the command may be run again.
            if let Err(error) = mark.store(&self.nodes, name).await {
                say(
                    name,
                    format_args!("replaced, which is not noted: {error:#}"),
                );
            }
        }
        Ok(())
    }

    /// Until the node is what it is to be, or something else.
    async fn wait(&self, mut mark: Option<Mark>) -> Result<Outcome> {
        let name = self.arguments.node.as_str();
        say(
            name,
            format_args!("waiting until it runs `{}`", self.arguments.to),
        );
        let end = Instant::now() + Duration::from_secs(self.arguments.timeout);
        let mut refusals = Refusals::from_now();
        let mut last = String::new();
        loop {
            let state = match self.member().await {
                Ok(member) => self.look(&member, mark.as_ref()).await?,
                Err(error) => State::NotYet(format!("{error:#}")),
            };
            match state {
                State::Verified(finding) => return self.done(mark.as_ref(), finding).await,
                State::Refused(evidence) => return Ok(Outcome::Refused { evidence }),
                State::OtherImage(got) => {
                    if let Some(mark) = &mut mark {
                        mark.replaced = false;
                        mark.store(&self.nodes, name).await?;
                    }
                    return Ok(Outcome::OtherImage { got });
                }
                State::NotYet(why) if why != last => {
                    say(name, &why);
                    last = why;
                }
                State::NotYet(_) => {}
            }
            for refusal in refusals.not_told(&self.cluster).await {
                say(name, refusal);
            }
            if Instant::now() >= end {
                let refusals = refusals.told();
                return Ok(Outcome::Waiting { refusals, last });
            }
            sleep(POLL).await;
        }
    }

    async fn look(&self, member: &Member, mark: Option<&Mark>) -> Result<State> {
        let record = member.record.as_ref().context("a record")?;
        if record.image != self.arguments.to {
            // One that was recovered has the record of before, and only its evidence says what it runs now.
            if member.is_ready() && mark.is_some_and(|mark| has_booted(member, mark)) {
                let finding = self.ask(member).await?;
                if matches!(finding.outcome, Verdict::Verified(_)) {
                    return Ok(State::Verified(finding));
                }
            }
            let again = mark.is_some_and(|mark| record.generation > mark.generation);
            return Ok(match again && member.is_ready() {
                true => State::OtherImage(record.image.clone()),
                false => State::NotYet(match record.image.as_str() {
                    "" => "has no record of an admission with an image".to_owned(),
                    image => format!("was last admitted with `{image}`"),
                }),
            });
        }
        if !member.is_ready() || !is_fresh(member, record, mark) {
            return Ok(State::NotYet("was admitted, is not ready yet".to_owned()));
        }
        let finding = self.ask(member).await?;
        Ok(match &finding.outcome {
            Verdict::Verified(_) => State::Verified(finding),
            Verdict::Refused(_) => State::Refused(finding),
            Verdict::Unavailable { error } => State::NotYet(format!("gives no evidence: {error}")),
        })
    }

    async fn done(&self, mark: Option<&Mark>, verified: Finding) -> Result<Outcome> {
        let name = self.arguments.node.as_str();
        if let Some(mark) = mark {
            mark.clear(&self.nodes, name).await?;
        }
        Ok(Outcome::Done { verified })
    }
}

/// What was seen of a node that is to come back.
enum State {
    NotYet(String),
    OtherImage(String),
    Refused(Finding),
    Verified(Finding),
}

/// Whether it is the kubelet of this boot that says that the node is ready. Nodes that share a kernel have
/// one boot id; there the kubelet spoke after the admission, by the cluster's clock.
fn is_fresh(member: &Member, record: &NodeRecord, mark: Option<&Mark>) -> bool {
    let Some(mark) = mark else {
        return true;
    };
    let heartbeat = member.heartbeat();
    mark.boot.is_empty()
        || has_booted(member, mark)
        || heartbeat.is_some_and(|heartbeat| heartbeat > record.last_seen.0)
}

/// Whether its kernel is another one than before its disk was replaced.
fn has_booted(member: &Member, mark: &Mark) -> bool {
    let node = member.node.as_ref();
    !mark.boot.is_empty() && node.is_some_and(|node| boot(node) != mark.boot)
}

#[derive(Serialize)]
struct Report<'a> {
    node: &'a NodeName,
    image: &'a str,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Report<'_> {
    const fn status(&self) -> u8 {
        match self.outcome {
            Outcome::Done { .. } => 0,
            Outcome::OtherImage { .. } | Outcome::Refused { .. } => REFUSED,
            Outcome::Blocked { .. } | Outcome::Waiting { .. } => UNAVAILABLE,
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, image) = (self.node, self.image);
        match &self.outcome {
            Outcome::Done { .. } => {
                return writeln!(f, "Node `{node}` is verified as `{image}`");
            }
            Outcome::Blocked { pods } => {
                writeln!(f, "Node `{node}` is cordoned; pods do not leave it:")?;
                for pod in pods {
                    writeln!(f, "  {pod}")?;
                }
                return writeln!(f, "Repeat the command when they can");
            }
            Outcome::Waiting { refusals, last } => {
                writeln!(f, "Node `{node}` is not back with `{image}`: {last}")?;
                for refusal in refusals {
                    writeln!(f, "  {refusal}")?;
                }
                writeln!(
                    f,
                    "Repeat the command to go on waiting; see the node's console"
                )?;
            }
            Outcome::OtherImage { got } => {
                writeln!(
                    f,
                    "Node `{node}` came back with `{got}`: its root disk was not replaced by `{image}`"
                )?;
                writeln!(f, "Repeat the command to have it replaced again")?;
            }
            Outcome::Refused { evidence } => {
                writeln!(
                    f,
                    "Node `{node}` was admitted with `{image}`, and its evidence does not fit"
                )?;
                evidence.explain(f)?;
            }
        }
        writeln!(
            f,
            "It stays cordoned. To go back: `constellation upgrade node {node} --to OLD-IMAGE`; the old \
             image is accepted until `constellation upgrade retire`"
        )
    }
}
