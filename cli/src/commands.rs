//! The verbs, one module each.

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::output::OutputFormat;

mod audit;
mod image;
mod init;
mod keys;
mod kubeconfig;
mod manual;
mod measure;
mod mini;
mod node;
mod owner;
mod pki;
mod policy;
mod recover;
mod reference_values;
mod snp;
mod status;
mod upgrade;
mod verify;

/// Confidential Kubernetes: own images, predict their measurements, admit and recover nodes.
#[derive(Parser, Debug)]
#[command(name = "constellation", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Form of the result on standard output
    #[arg(long, global = true, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make an owner key, and certify the admission keys that act for it
    #[command(subcommand)]
    Owner(owner::Command),
    /// Make the secrets of a cluster
    #[command(subcommand)]
    Keys(keys::Command),
    /// Make the certificates by which the services know each other
    #[command(subcommand)]
    Pki(pki::Command),
    /// Make an owner's image from a published one
    #[command(subcommand)]
    Image(image::Command),
    /// Compute what an image's boot measures: PCRs, or SEV-SNP launch measurements
    Measure(measure::Measure),
    /// Say which evidence is accepted
    #[command(subcommand)]
    Policy(policy::Command),
    /// Say which images may boot, and in which roles
    #[command(subcommand)]
    ReferenceValues(reference_values::Command),
    /// Read, judge and endorse SEV-SNP reports
    #[command(subcommand)]
    Snp(snp::Command),
    /// See and change the node records of a join service
    Node(node::Node),
    /// Make a cluster out of a first node that waits
    Init(init::Init),
    /// Run a whole cluster in virtual machines on this computer
    #[command(subcommand)]
    Mini(mini::Command),
    /// Take a cluster into the file that kubectl reads
    #[command(subcommand)]
    Kubeconfig(kubeconfig::Command),
    /// Unlock a waiting node when no join service answers
    Recover(recover::Recover),
    /// Show nodes and services of a cluster
    Status(status::ClusterStatus),
    /// Roll a new image, or new rules, onto a running cluster
    ///
    /// A roll-out is: `add` the new image's values; bring `node` by node onto it, which drains it, has its root
    /// disk replaced and verifies it; `retire` the old values. `status` says what is next. Each verb may be
    /// interrupted and is continued by the same command. Until `retire`, a node can go back with
    /// `node NAME --to OLD`.
    ///
    /// Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused, 4 not yet: repeat the command.
    #[command(subcommand)]
    Upgrade(upgrade::Command),
    /// Ask running nodes for evidence and appraise it here
    Verify(verify::Verify),
    /// Check audit logs
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print a completion script for a shell
    Completions(manual::Completions),
    /// Write the manual pages
    Man(manual::Man),
}

impl Cli {
    /// Runs the chosen command.
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Owner(command) => command.run(self.output),
            Command::Keys(command) => command.run(self.output),
            Command::Pki(command) => command.run(self.output),
            Command::Image(command) => command.run(self.output),
            Command::Measure(command) => command.run(self.output),
            Command::Policy(command) => command.run(self.output),
            Command::ReferenceValues(command) => command.run(self.output),
            Command::Snp(command) => command.run(self.output),
            Command::Node(command) => command.run(self.output),
            Command::Init(command) => command.run(self.output),
            Command::Mini(command) => command.run(self.output),
            Command::Kubeconfig(command) => command.run(self.output),
            Command::Recover(command) => command.run(self.output),
            Command::Status(command) => command.run(self.output),
            Command::Upgrade(command) => command.run(self.output),
            Command::Verify(command) => command.run(self.output),
            Command::Audit(command) => command.run(self.output),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        }
    }
}
