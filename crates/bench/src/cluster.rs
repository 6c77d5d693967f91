//! A whole cluster in namespaces of this machine, beside one that bare kubeadm makes on such nodes.

mod bare;
mod memory;
mod ours;
mod ready;
mod tickets;

use crate::{
    report::{Goal, Report},
    statistics::median,
};
use anyhow::{Context as _, Result, ensure};
use native_kubernetes::Kubernetes;
use std::time::Instant;

/// Ours and bare kubeadm take turns, so that a machine that is busy for a while hits both.
const ROUNDS: usize = 3;

/// What ours may cost over bare kubeadm.
const OVERHEAD: Goal = Goal::AtMost(1.1);

/// The first node's name, and the worker's.
const FIRST: &str = "control-0";
const WORKER: &str = "worker-0";

/// One life of a cluster, in seconds.
#[derive(Clone, Copy, Debug)]
struct Life {
    /// From the operator's command until the node is ready; of that the import of images.
    init: f64,
    import: f64,
    /// From the same until our services are ready.
    services: Option<f64>,
    /// From a machine that has power until it is a ready node.
    join: f64,
    /// From power on until the only node is ready again.
    recover: f64,
}

/// What this group needs of the machine.
///
/// # Errors
/// If something is missing; the message has the command.
pub(crate) fn kubernetes() -> Result<Kubernetes> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "isolated nodes need root\nhint: `sudo make bench`"
    );
    Kubernetes::find()
}

pub(crate) fn measure(kubernetes: &Kubernetes, report: &mut Report) -> Result<()> {
    tickets::measure(kubernetes, report).context("tickets by an API server")?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Memory is looked at once, in a life whose figures do not come later.
        let memory = (round + 1 == ROUNDS).then_some(&mut *report);
        ours.push(ours::live(memory).context("a cluster of ours")?);
        bare.push(bare::live(kubernetes).context("a cluster of bare kubeadm")?);
        eprintln!("bench: {:?}\nbench: {:?}", ours.last(), bare.last());
    }
    compare(report, "init", (&ours, &bare), |life| life.init)?;
    compare(report, "init_import", (&ours, &bare), |life| life.import)?;
    let services = median(ours.iter().filter_map(|life| life.services));
    let services = services.context("nobody waited for services")?;
    report.figure(
        "init_services_ready_s",
        services,
        "`constellation init` has ended; bare kubeadm has no services",
    );
    compare(report, "join_to_ready", (&ours, &bare), |life| life.join)?;
    compare(report, "recover", (&ours, &bare), |life| life.recover)
}

/// The medians of both, and the median of what each round's pair gives.
fn compare(
    report: &mut Report,
    name: &str,
    (ours, bare): (&[Life], &[Life]),
    of: fn(&Life) -> f64,
) -> Result<()> {
    let middle = |lives: &[Life]| median(lives.iter().map(of)).context("no round was measured");
    report.figure(&format!("{name}_s"), middle(ours)?, "");
    report.figure(&format!("{name}_s_kubeadm"), middle(bare)?, "bare kubeadm");
    let name = format!("{name}_over_kubeadm");
    let ratio = median(
        ours.iter()
            .zip(bare)
            .map(|(ours, bare)| of(ours) / of(bare)),
    );
    let ratio = ratio.context("no round was measured")?;
    let note = "median of the rounds' ratios";
    if name.starts_with("init_import") {
        report.figure(&name, ratio, note);
    } else {
        report.goal(&name, ratio, OVERHEAD, note);
    }
    Ok(())
}

/// Does something and gives how long it took, in seconds.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}
