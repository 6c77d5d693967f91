//! `make bench`: what a node, a ticket and a disk cost, beside what they cost otherwise.
//!
//! Measured are the programs that users run: the built image in a virtual machine, and release
//! builds of both services as processes of their own. Only the load is made here: thousands of
//! attesters need keys without the TPM or the processor around them (crates `software-tpm` and
//! `software-snp`). docs/benchmarks.md says what each row means.

mod admission;
mod appraisals;
mod attester;
mod boots;
mod clevis;
mod cluster;
mod crowd;
mod handshakes;
mod installation;
mod machine;
mod os;
mod process;
mod report;
mod snp_tickets;
mod statistics;
mod tickets;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use report::Report;
use std::path::PathBuf;

#[derive(Parser)]
#[command(about)]
enum Task {
    /// Measure, print a table, write the figures
    Run(Arguments),
    /// Serve bare mutual handshakes on a loopback port: the process that `run` compares with
    ServeHandshakes,
}

#[derive(clap::Args)]
struct Arguments {
    /// Where the figures go
    #[arg(long)]
    out: PathBuf,
    /// What to measure [default: everything]
    #[arg(long, value_enum)]
    only: Vec<Group>,
    /// The folder of `xtask bench`'s system with clevis, if it could be built
    #[arg(long)]
    clevis: Option<PathBuf>,
}

/// Measurements that belong together.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Sizes, rejoins over the floor, formatting
    Boots,
    /// The same for clevis and tang
    Clevis,
    /// Kubernetes: init, join and recover beside bare kubeadm, tickets by an API server, memory
    Cluster,
    /// Machines with the OS image: sizes, init, join, recover and rejoin by step
    Os,
    /// Appraisals of SEV-SNP reports, tickets for SEV-SNP guests
    Snp,
    /// Tickets, handshakes, memory
    Tickets,
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Run(arguments) => run(&arguments),
        Task::ServeHandshakes => handshakes::serve(),
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let wanted = |group| arguments.only.is_empty() || arguments.only.contains(&group);
    let mut report = Report::default();
    if wanted(Group::Tickets) {
        admission::measure(&mut report).context("tickets")?;
    }
    if wanted(Group::Snp) {
        appraisals::measure(&mut report).context("appraisals")?;
        snp_tickets::measure(&mut report).context("tickets for SEV-SNP")?;
    }
    if wanted(Group::Boots) {
        boots::measure(&mut report).context("boots")?;
    }
    if wanted(Group::Clevis)
        && let Some(system) = &arguments.clevis
    {
        clevis::measure(system, &mut report).context("clevis")?;
    }
    if wanted(Group::Cluster) {
        match cluster::kubernetes() {
            Ok(kubernetes) => cluster::measure(&kubernetes, &mut report).context("cluster")?,
            Err(error) => eprintln!("bench: no figures of a cluster: {error:#}"),
        }
    }
    if wanted(Group::Os) {
        // Nothing of what was measured before is lost if two machines are too much for this one.
        if let Err(error) = os::measure(&mut report) {
            eprintln!("bench: no figures of the OS image: {error:#}");
        }
    }
    print!("{report}");
    report.write(&arguments.out)
}
