//! What an operator mends with the command line (`docs/recover.md`), on machines like those of `direct`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{Adoption, Machine, Node, Scenario, Site, Swtpm, exit};
use serde_json::Value;

/// How long the join service may take to log what it has already answered.
const LOG: Duration = Duration::from_secs(10);

#[test]
fn the_operator_recovers_a_node_without_services() -> Result<()> {
    let mut scenario = Scenario::direct("recover")?;
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    let records = scenario.site.save_records()?;
    let old = node.state.copy_to(&scenario.workspace.file("old.raw"))?;
    scenario.site.stop()?;

    // By records of another time, in which the node was forgotten: refused, and it stays off.
    let known = fs::read_to_string(&records)?;
    let others = scenario.workspace.file("other-records.json");
    fs::write(&others, known.replace("\"active\"", "\"forgotten\""))?;
    let mut machine = node.start("refused")?;
    not_recovered(
        &scenario.site,
        &mut machine,
        &others,
        ["is not unlocked", "exit status: 3"],
    )?;
    machine.expect_exit(&[exit::REFUSED])?;

    let mut machine = node.start("recover")?;
    machine.expect_step("peer")?;
    scenario.site.recover(machine.push_port(), &records)?;
    machine.expect_unlocked(2)?;

    // The disk of the boot before: the node gets its key, and finds the header older than its record.
    let kept = fs::read(&records)?;
    let mut machine = node.with_state(&old).start("rolled-back")?;
    not_recovered(
        &scenario.site,
        &mut machine,
        &records,
        ["it took its key", "exit status: 1"],
    )?;
    machine.expect_exit(&[exit::HEADER_TOO_OLD])?;
    ensure!(fs::read(&records)? == kept, "the records changed");

    scenario.site.start()?;
    node.start("rejoin")?.expect_unlocked(3)?;
    scenario.passed()
}

/// A recovery of this machine by these records fails, and says so in these words.
fn not_recovered(
    site: &Site,
    machine: &mut Machine,
    records: &Path,
    words: [&str; 2],
) -> Result<()> {
    machine.expect_step("peer")?;
    let failure = site.recover(machine.push_port(), records).err();
    let failure = format!("{:#}", failure.context("the node was recovered")?);
    ensure!(words.iter().all(|word| failure.contains(word)), "{failure}");
    Ok(())
}

/// Two nodes joined, one of them after the backup. Then the host of the services is gone, with certificates,
/// admission key, store and audit keys.
#[test]
fn a_burnt_service_host_is_restored() -> Result<()> {
    let mut scenario = Scenario::direct("burnt-host")?;
    let (mut early, mut late) = (scenario.node("worker-0")?, scenario.node("worker-1")?);
    early.start("join")?.expect_unlocked(1)?;
    let backup = scenario.workspace.file("store.redb");
    let socket = scenario.site.admin_socket();
    scenario.site.cli.node_backup(&socket, &backup)?;
    early.start("after-backup")?.expect_unlocked(2)?;
    late.start("join")?.expect_unlocked(1)?;

    let site = &mut scenario.site;
    let made_anew = |site: &Site| -> Result<_> {
        let (_, audit_key) = site.audit_log("join-service");
        let certificate = site.cli.file("admission.cert.json");
        Ok((fs::read(audit_key)?, fs::read(certificate)?))
    };
    let burnt = made_anew(site)?;
    site.restore(&scenario.workspace, "restored", &backup)?;
    let restored = made_anew(site)?;
    ensure!(
        burnt.0 != restored.0 && burnt.1 != restored.1,
        "a key of the old host is in use"
    );
    site.start()?;
    for node in [&mut early, &mut late] {
        node.config.forwards = vec![site.forward()];
    }
    early.start("restored")?.expect_unlocked(3)?;

    let (refusal, disk) = refused(&scenario, &late, "unknown", "no record")?;
    let attester = refusal["attester"].as_str().context("no attester")?;
    let socket = scenario.site.admin_socket();
    let cli = &scenario.site.cli;
    let adoption = Adoption {
        node: "worker-1",
        disk: &disk.id,
        attester,
        generation: &disk.generation,
    };
    cli.node_adopt(&socket, &adoption)?;
    let other = Adoption {
        node: "worker-2",
        ..adoption
    };
    let again = cli.node_adopt(&socket, &other);
    ensure!(
        again.is_err_and(|error| error.to_string().contains("exit status: 3")),
        "a disk with a record is adopted by another name"
    );
    late.start("adopted")?.expect_unlocked(2)?;
    scenario.passed()
}

#[test]
fn hardware_and_disks_are_replaced_on_purpose_and_the_audit_log_says_so() -> Result<()> {
    let mut scenario = Scenario::direct("replaced")?;
    let mut node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    let (cli, socket) = (scenario.site.cli.clone(), scenario.site.admin_socket());
    let records = cli.node_show(&socket, "worker-0")?;
    ensure!(records["nodes"][0]["state"] == "active", "{records}");
    ensure!(
        cli.node_show(&socket, "worker-1").is_err(),
        "a node that nobody knows is shown"
    );
    let heads = scenario.workspace.file("heads.jsonl");
    fs::write(&heads, cli.node_audit_head(&socket)?.to_string())?;
    let old = node.state.copy_to(&scenario.workspace.file("old.raw"))?;

    // The machine broke, its disk is put into another one.
    let tpm = scenario.workspace.file("other.tpm");
    node.config.tpm = Some(Swtpm::manufacture(&tpm, &scenario.authority)?);
    let (refusal, disk) = refused(&scenario, &node, "moved", "expected attester")?;
    let attester = refusal["attester"].as_str().context("no attester")?;
    ensure!(
        records["nodes"][0]["attester"] != attester,
        "it is the same machine"
    );
    cli.node_rebind(&socket, &disk.id, attester)?;
    node.start("rebound")?.expect_unlocked(2)?;

    // Somebody needs the files of before.
    node.state.put_back(&old, 0)?;
    node.start("put-back")?
        .expect_exit(&[exit::HEADER_TOO_OLD])?;
    cli.node_accept_generation(&socket, &disk.id, &disk.generation)?;
    node.start("accepted")?.expect_unlocked(2)?;

    scenario.site.stop()?;
    let (log, key) = scenario.site.audit_log("join-service");
    let verified = cli.audit_verify(&log, &key, &heads)?;
    ensure!(verified["chains"] == 1, "{verified}");
    let text = fs::read_to_string(&log)?;
    for action in ["rebind", "accept-generation"] {
        ensure!(text.contains(action), "`{action}` is not in the audit log");
    }
    // The newest line is gone; the rest is as it was, with its signatures.
    let cut = text.trim_end().rfind('\n').context("a log of one line")?;
    fs::write(&log, &text[..=cut])?;
    let cut = cli.audit_verify(&log, &key, &heads);
    ensure!(cut.is_err(), "a log without its end is whole: {cut:?}");
    scenario.passed()
}

/// A disk as the console of its node names it.
struct NamedDisk {
    id: String,
    generation: String,
}

/// Boots a node with a header that the join service refuses for `reason`; gives the line of its log.
fn refused(
    scenario: &Scenario,
    node: &Node,
    boot: &str,
    reason: &str,
) -> Result<(Value, NamedDisk)> {
    let service = &scenario.site.join_service;
    let position = service.log_position();
    let mut machine = node.start(boot)?;
    let step = machine.expect_step("state-disk")?;
    let field = |name| step.field(name).map(str::to_owned);
    let disk = NamedDisk {
        id: field("header").context("no header")?,
        generation: field("generation").context("no generation")?,
    };
    machine.expect_exit(&[exit::REFUSED])?;
    let line = service.expect_log(position, &["request failed", &disk.id, reason], LOG)?;
    Ok((serde_json::from_str(&line)?, disk))
}
