//! A cluster by the programs that users run.

use super::{FIRST, Life, WORKER, memory, ready, timed};
use crate::report::Report;
use anyhow::{Context as _, Result, bail};
use child_process::run;
use native_cluster::{Cluster, Node};
use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

/// How often a node's log is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Where an agent is pushed to.
const PUSH: u16 = 30091;

/// The places of the nodes.
pub(super) const CONTROL: usize = 0;
const SECOND: usize = 1;

/// Beside its life, also what memory its services take, if there is a report for that.
pub(super) fn live(report: Option<&mut Report>) -> Result<Life> {
    let mut cluster = Cluster::new()?;
    let lived = all(&mut cluster, report);
    // The nodes' own words are gone with the cluster.
    lived.with_context(|| cluster.logs())
}

fn all(cluster: &mut Cluster, report: Option<&mut Report>) -> Result<Life> {
    cluster.add_node(FIRST)?;
    ready::wait_for_port(cluster.node(CONTROL)?.isolated(), PUSH)?;
    let (init, services) = init(cluster)?;
    let import = phase(&cluster.node(CONTROL)?.log(), "images").context("no images imported")?;
    let import = import.as_secs_f64();
    let idle = memory::of_services(cluster)?;
    cluster.install_node(WORKER)?;
    let join = timed(|| {
        cluster.boot(SECOND)?;
        wait_for_phase(cluster, SECOND, "node-ready")?;
        ready::wait(cluster.node(CONTROL)?.isolated(), WORKER)
    })?;
    if let Some(report) = report {
        memory::measure(cluster, &idle, report).context("memory")?;
    }
    cluster.power_off(SECOND)?;
    cluster.power_off(CONTROL)?;
    let since = ready::now()?;
    let recover = timed(|| {
        cluster.power_on(CONTROL)?;
        run(&mut cluster.recover_command(CONTROL)?)?;
        ready::wait_again(cluster.node(CONTROL)?.isolated(), &since)
    })?;
    Ok(Life {
        init,
        import,
        services: Some(services),
        join,
        recover,
    })
}

/// How long after the operator's command the node was ready, and then the services.
fn init(cluster: &mut Cluster) -> Result<(f64, f64)> {
    let mut command = cluster.init_command()?;
    let begun = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let operator = output.spawn().context("start `constellation init`")?;
    wait_for_phase(cluster, CONTROL, "node-ready")?;
    ready::wait(cluster.node(CONTROL)?.isolated(), FIRST)?;
    let ready = begun.elapsed().as_secs_f64();
    let output = operator.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "`constellation init`: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok((ready, begun.elapsed().as_secs_f64()))
}

fn wait_for_phase(cluster: &mut Cluster, node: usize, name: &str) -> Result<()> {
    let end = Instant::now() + Node::patience();
    while phase(&cluster.node(node)?.log(), name).is_none() {
        if Instant::now() >= end {
            bail!("phase `{name}` is not done");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// How long a phase of the bootstrapper took, if it is done.
fn phase(log: &str, name: &str) -> Option<Duration> {
    let done = |line: &&str| line.contains("phase done") && line.contains(&format!("\"{name}\""));
    let (_, after) = log.lines().find(done)?.split_once("milliseconds")?;
    let digits = after.trim_start_matches(|c: char| !c.is_ascii_digit());
    let digits = digits.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(Duration::from_millis)
}
