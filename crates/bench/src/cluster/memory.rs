//! Resident memory of the services' processes in their pods on the first node.

use super::{ours::CONTROL, ready};
use crate::{
    process::ProcessId,
    report::{Goal, Report},
};
use anyhow::Result;
use child_process::run;
use native_cluster::Cluster;
use std::time::Duration;

const SERVICES: [&str; 3] = ["join-service", "key-service", "verification-service"];

/// MiB; the goal for each service.
const GOAL: Goal = Goal::AtMost(64.0);

/// How often every node of the cluster is asked for fresh evidence before memory is looked at again.
const QUESTIONS: usize = 10;

/// Between questions that were not answered.
const PAUSE: Duration = Duration::from_secs(1);

/// What each of [`SERVICES`] takes, in MiB.
pub(super) fn of_services(cluster: &mut Cluster) -> Result<[f64; 3]> {
    let group = cluster.node(CONTROL)?.isolated().cgroup().to_owned();
    let mut resident = [0.0; 3];
    for (resident, name) in resident.iter_mut().zip(SERVICES) {
        *resident = ProcessId::find(name, &group)?.resident()?;
    }
    Ok(resident)
}

/// Adds what they took before the first question, and after some. A node has joined between.
pub(super) fn measure(cluster: &mut Cluster, idle: &[f64; 3], report: &mut Report) -> Result<()> {
    let mut verify = cluster.verify_command()?;
    for _ in 0..QUESTIONS {
        // A node is ready before its verification service is.
        ready::poll(PAUSE, || run(&mut verify).is_ok())?;
    }
    let used = of_services(cluster)?;
    for (name, (idle, used)) in SERVICES.iter().zip(idle.iter().zip(used)) {
        let name = format!("rss_mib_cluster_{}", name.replace('-', "_"));
        report.goal(&format!("{name}_idle"), *idle, GOAL, "in its pod");
        report.goal(
            &format!("{name}_used"),
            used,
            GOAL,
            "after a join and questions to all nodes",
        );
    }
    Ok(())
}
