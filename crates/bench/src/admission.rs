//! What a ticket costs: time of the services' processes, rate, latency, memory.

use crate::{
    attester::Attester,
    crowd,
    handshakes::Server,
    installation::{self, Installation},
    report::{Goal, Report},
    statistics::{median, percentile},
    tickets::{Saturation, pace, saturate},
};
use anyhow::{Context as _, Result};
use qemu_tests::Workspace;
use std::time::Duration;

/// Peers at a time: more than a machine has processors, so that durable writes are grouped and
/// nothing waits for a disk.
const PEERS: usize = 32;

/// Tickets and handshakes take turns, so that a machine that is busy for a while hits both.
pub(crate) const ROUNDS: usize = 3;

/// One turn of tickets; one of handshakes takes half of it.
pub(crate) const TURN: Duration = Duration::from_secs(5);

/// At half the rate, for the latencies.
const PACED: Duration = Duration::from_secs(15);

/// MiB; the goal for each service.
const MEMORY: Goal = Goal::AtMost(64.0);

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let installation = Installation::start("bench-tickets", installation::trust_tpms)?;
    let workspace = Workspace::create("bench-handshakes")?;
    let server = Server::start(&workspace)?;
    let peers = peers(&installation);
    // Connections, code and allocators warm up unmeasured.
    tickets(&installation, &peers, TURN / 5)?;
    handshakes(&server, TURN / 10)?;
    let (mut issued, mut greeted) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        issued.push(tickets(&installation, &peers, TURN)?);
        greeted.push(handshakes(&server, TURN / 2)?);
    }
    drop(server);
    workspace.passed()?;
    let rate = costs(report, &issued, &greeted)?;
    latency(report, &peers, rate / 2.0)?;
    memory(report, &installation)?;
    installation.stop()
}

/// The nodes, a share for each peer.
pub(crate) fn peers(installation: &Installation) -> Vec<&[Attester]> {
    let share = installation.nodes.len().div_ceil(PEERS);
    installation.nodes.chunks(share).collect()
}

/// As many tickets as can be had in one turn.
pub(crate) fn tickets(
    installation: &Installation,
    peers: &[&[Attester]],
    turn: Duration,
) -> Result<Saturation> {
    let watched = (installation.join_service, Some(installation.key_service));
    saturate(peers, turn, watched, rejoin)
}

/// A node boots again only after all others of its peer: no two boots of one node overlap.
fn rejoin(nodes: &&[Attester], turn: usize) -> Result<()> {
    let node = nodes
        .get(turn % nodes.len())
        .context("a peer without nodes")?;
    node.rejoin()
}

fn handshakes(server: &Server, turn: Duration) -> Result<Saturation> {
    saturate(&[(); PEERS], turn, (server.id(), None), |(), _| {
        server.handshake()
    })
}

/// The median of what is asked of each round.
pub(crate) fn of(rounds: &[Saturation], value: fn(&Saturation) -> f64) -> Result<f64> {
    median(rounds.iter().map(value)).context("no round was measured")
}

/// Gives the rate at which tickets were issued.
fn costs(report: &mut Report, issued: &[Saturation], greeted: &[Saturation]) -> Result<f64> {
    let ticket = of(issued, |round| round.cpu_us)?;
    let key_service = of(issued, |round| round.other_cpu_us)?;
    let handshake = of(greeted, |round| round.cpu_us)?;
    let rate = of(issued, |round| round.per_second)?;
    report.figure("ticket_cpu_us", ticket, "join service, per ticket");
    report.figure(
        "ticket_key_service_cpu_us",
        key_service,
        "key service, per ticket",
    );
    report.figure(
        "tls_handshake_cpu_us",
        handshake,
        "bare mutual handshake, same configuration",
    );
    let note = "join service alone";
    report.goal(
        "handshake_over_ticket",
        handshake / ticket,
        Goal::AtLeast(0.5),
        note,
    );
    report.figure(
        "tickets_per_s",
        rate,
        "the load generator on the same processors",
    );
    Ok(rate)
}

fn latency(report: &mut Report, peers: &[&[Attester]], rate: f64) -> Result<()> {
    let latencies = pace(peers, PACED, rate, rejoin)?;
    let at = |percent| percentile(latencies.iter().copied(), percent).context("no ticket");
    report.figure("p50_ms", at(50)?, "at half of that rate");
    report.figure("p99_ms", at(99)?, "at half of that rate");
    Ok(())
}

fn memory(report: &mut Report, installation: &Installation) -> Result<()> {
    let (join_service, key_service) = installation.idle;
    report.goal("rss_mib_join_service_idle", join_service, MEMORY, "");
    report.goal("rss_mib_key_service_idle", key_service, MEMORY, "");
    let crowded = crowd::measure(installation)?;
    let note = "1,000 peers accepted, one request in flight each";
    report.goal(
        "rss_mib_join_service_crowd",
        crowded.join_service,
        MEMORY,
        note,
    );
    report.goal(
        "rss_mib_key_service_crowd",
        crowded.key_service,
        MEMORY,
        "peak while it answers them",
    );
    Ok(())
}
