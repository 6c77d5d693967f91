//! `make cluster-native`: brings a cluster up on this machine, shows it, and takes it down.

use anyhow::{Result, ensure};
use native_cluster::Cluster;
use std::{
    process::{Command, Stdio},
    time::Instant,
};

const CONTROL_PLANE: &str = "control-0";
const WORKER: &str = "worker-0";

fn main() -> Result<()> {
    let begin = Instant::now();
    let story = |what: &str| println!("{:7.1} s  {what}", begin.elapsed().as_secs_f64());
    story("owner, documents and container images");
    let mut cluster = Cluster::new()?;
    if let Err(error) = tell(&mut cluster, &story) {
        eprintln!("{}", cluster.logs());
        return Err(error);
    }
    drop(cluster);
    story("cluster-native: ok");
    Ok(())
}

fn tell(cluster: &mut Cluster, story: &impl Fn(&str)) -> Result<()> {
    story("a machine boots and waits for its owner");
    cluster.add_node(CONTROL_PLANE)?;
    story("constellation init");
    let mut init = cluster.init_command()?;
    show(&mut init)?;
    cluster.wait_ready(CONTROL_PLANE)?;
    story("another machine boots and asks the join service in the cluster");
    cluster.add_node(WORKER)?;
    cluster.wait_ready(WORKER)?;
    story("both nodes are ready");
    show(&mut cluster.kubectl(&["get", "nodes", "-o", "wide"]))?;
    show(&mut cluster.kubectl(&["get", "pods", "-A", "-o", "wide"]))?;
    story("constellation status");
    show(&mut cluster.status_command()?)?;
    story("constellation verify");
    cluster.wait_answers()?;
    show(&mut cluster.verify_command()?)?;
    Ok(())
}

/// Runs a program with its output on this terminal.
fn show(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
