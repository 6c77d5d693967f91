//! Scenarios about disk, network, services and crashes: the same kernel, initial RAM disk and TPM
//! without firmware.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use qemu_tests::{
    AgentStep, Disk, GUEST_JOIN_SERVICE, Lie, LyingDisk, Machine, Metadata, NameServer, Node, Pace,
    Relay, Scenario, SilentServer, Site, Swtpm, TpmAuthority, exit, partitioned_state,
};
use serde_json::{Value, json};

/// An address of the virtual network that nobody answers at.
const BLACK_HOLE: &str = "169.254.169.99:30090";

/// An address of the virtual network for a hostile server.
const HOSTILE: &str = "169.254.169.98:30090";

/// How long a test watches a node that must go on waiting.
const WATCH: Duration = Duration::from_secs(12);

/// A busy machine's time for one line of the console.
const LINE: Duration = Duration::from_secs(60);

/// Where dm-integrity's superblock is (`docs/state-disk.md`).
const DATA: u64 = 16 << 20;

/// Where the two slots of the header are (`docs/state-disk.md`).
const SLOTS: [u64; 2] = [0, 64 * 1024];

/// Where a power cut is aimed at: a step, which of its lines, from 1, and what must be on the disk then. The
/// agent does not wait at a line, so where that says nothing of the disk, a cut may be later than its line.
type Cut = (&'static str, usize, Generations);

/// Those of the header's two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generations {
    Any,
    Unequal,
    Equal,
}
use Generations::{Any, Equal, Unequal};

/// How often a cut is tried until it hits.
const TRIES: usize = 5;

/// Lines of a first boot, from the disk to the verified root (`docs/agent.md`). The header is written to one
/// slot, committed, and written to the other one.
const JOIN_CUTS: [Cut; 12] = [
    ("state-disk", 1, Any),
    ("admitted", 1, Any),
    ("ticket", 1, Any),
    ("wipe", 1, Any),
    ("format", 1, Any),
    ("header", 1, Unequal),
    ("commit", 1, Any),
    ("header", 2, Equal),
    ("mapping", 1, Equal),
    ("latch", 1, Equal),
    ("hand-off", 1, Equal),
    ("switch-root", 1, Equal),
];

/// Lines of a later boot, as far as the real root writes nothing yet. The header is opened, and then as above.
const REJOIN_CUTS: [Cut; 10] = [
    ("state-disk", 1, Any),
    ("admitted", 1, Any),
    ("ticket", 1, Any),
    ("header", 1, Any),
    ("header", 2, Unequal),
    ("commit", 1, Any),
    ("header", 3, Equal),
    ("mapping", 1, Equal),
    ("latch", 1, Equal),
    ("hand-off", 1, Equal),
];

#[test]
fn the_counter_survives_five_reboots() -> Result<()> {
    let scenario = Scenario::direct("reboots")?;
    let node = scenario.node("worker-0")?;
    for counter in 1..=6 {
        node.start(&format!("boot-{counter}"))?
            .expect_unlocked(counter)?;
    }
    scenario.passed()
}

#[test]
fn a_flipped_bit_of_any_header_field_is_refused() -> Result<()> {
    use exit::{HEADER_REFUSED, HEADER_TOO_OLD, REFUSED, STATE_DISK_UNUSABLE};
    let scenario = Scenario::direct("header-bits")?;
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    // Offsets of `docs/state-disk.md`; both slots hold the same generation, so both are changed.
    // Without the form of a header the disk asks to join, and its active record refuses that.
    let fields: [(&str, u64, u8, &[u32]); 11] = [
        ("magic", 0, 1, &[STATE_DISK_UNUSABLE]),
        ("version", 8, 2, &[REFUSED]),
        ("flags", 10, 1, &[REFUSED]),
        ("key-version", 12, 2, &[REFUSED, HEADER_REFUSED]),
        ("uuid", 16, 1, &[REFUSED]),
        ("generation", 32, 4, &[HEADER_REFUSED]),
        ("nonce", 40, 1, &[HEADER_REFUSED]),
        ("length", 52, 1, &[REFUSED]),
        ("reserved", 60, 1, &[REFUSED]),
        ("body", 100, 1, &[HEADER_REFUSED, HEADER_TOO_OLD]),
        ("padding", 2048, 1, &[REFUSED]),
    ];
    let flip = |offset, bits| {
        SLOTS
            .iter()
            .try_for_each(|slot| node.state.flip(slot + offset, bits))
    };
    for (field, offset, bits, codes) in fields {
        flip(offset, bits)?;
        node.start(field)?
            .expect_exit(codes)
            .with_context(|| format!("field {field}"))?;
        flip(offset, bits)?;
    }
    node.start("healed")?.expect_unlocked(2)?;
    scenario.passed()
}

#[test]
fn one_damaged_slot_of_two_does_not_lock_the_node_out() -> Result<()> {
    let scenario = Scenario::direct("one-slot")?;
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    for (counter, slot) in [(2, 0), (3, 64 * 1024)] {
        node.state.flip(slot + 100, 1)?;
        node.start(&format!("damaged-{counter}"))?
            .expect_unlocked(counter)?;
    }
    scenario.passed()
}

#[test]
fn swapped_rolled_back_blanked_and_truncated_disks_are_refused() -> Result<()> {
    let scenario = Scenario::direct("disks")?;
    let (first, second) = (scenario.node("worker-0")?, scenario.node("worker-1")?);
    first.start("join")?.expect_unlocked(1)?;
    second.start("join")?.expect_unlocked(1)?;
    let old = first.state.copy_to(&scenario.workspace.file("old.raw"))?;
    first.start("rejoin")?.expect_unlocked(2)?;

    scenario.expect_refused(
        &first.with_state(&second.state),
        "swapped",
        &["expected attester"],
    )?;
    first
        .with_state(&old)
        .start("rolled-back")?
        .expect_exit(&[exit::HEADER_TOO_OLD])?;

    let blank = Disk::blank_state(&scenario.workspace.file("blank.raw"), 1024)?;
    scenario.expect_refused(
        &first.with_state(&blank),
        "blanked",
        &["is active, but the disk is blank"],
    )?;
    ensure!(blank.is_blank()?, "a refused node wrote to its disk");

    first.start("own-disk")?.expect_unlocked(3)?;

    let cut = first.state.copy_to(&scenario.workspace.file("cut.raw"))?;
    let half = File::options().write(true).open(cut.path())?;
    half.set_len(512 * 1024 * 1024)?;
    first
        .with_state(&cut)
        .start("truncated")?
        .expect_exit(&[exit::STATE_DISK_UNUSABLE])?;
    // The copy committed nothing: the disk it was made from is not behind its record.
    first.start("own-disk-again")?.expect_unlocked(4)?;

    // Somebody's data: in a slot as ext4 has it, or between blank ones as md does.
    let third = scenario.node("worker-2")?;
    for offset in [1024, 4096 + 16] {
        third.blank_state()?;
        third.state.flip(offset, 0xff)?;
        third
            .start(&format!("foreign-{offset}"))?
            .expect_exit(&[exit::STATE_DISK_UNUSABLE])?;
        third.state.flip(offset, 0xff)?;
        ensure!(third.state.is_blank()?, "somebody's data was written to");
    }
    scenario.passed()
}

#[test]
fn no_disk_or_two_of_them_are_no_state_disk() -> Result<()> {
    let scenario = Scenario::direct("disk-count")?;
    let node = scenario.node("worker-0")?;
    let with_disks = |change: &dyn Fn(&mut Vec<Disk>)| {
        let mut node = node.clone();
        change(&mut node.config.disks);
        node
    };
    let position = scenario.site.join_service.log_position();
    let none = with_disks(&|disks| disks.truncate(1));
    none.start("withheld")?
        .expect_exit(&[exit::STATE_DISK_MISSING])?;
    let second = Disk::blank_state(&scenario.workspace.file("second.raw"), 256)?;
    let two = with_disks(&|disks| disks.push(second.clone()));
    two.start("two-of-one-serial")?
        .expect_exit(&[exit::STATE_DISK_MISSING])?;
    let partition = partitioned_state(&scenario.workspace.file("partition.raw"), 256)?;
    let both = with_disks(&|disks| disks.push(partition.clone()));
    both.start("disk-and-partition")?
        .expect_exit(&[exit::STATE_DISK_MISSING])?;
    ensure!(
        node.state.is_blank()? && second.is_blank()?,
        "a disk was written to"
    );
    let heard = scenario
        .site
        .join_service
        .expect_log(position, &["peer"], Duration::from_secs(1));
    ensure!(heard.is_err(), "the node asked somebody: {heard:?}");
    node.start("one")?.expect_unlocked(1)?;
    scenario.passed()
}

#[test]
fn a_partition_can_be_the_state_disk() -> Result<()> {
    let scenario = Scenario::direct("partition")?;
    let mut node = scenario.node("worker-0")?;
    let disk = partitioned_state(&scenario.workspace.file("partition.raw"), 512)?;
    node.config.disks.truncate(1);
    node.config.disks.push(disk.clone());
    node.start("join")?.expect_unlocked(1)?;
    node.start("rejoin")?.expect_unlocked(2)?;
    // One byte of the table: without a partition there is no state disk.
    disk.flip(1024 + 56, 1)?;
    node.start("bad-table")?
        .expect_exit(&[exit::STATE_DISK_MISSING])?;
    disk.flip(1024 + 56, 1)?;
    node.start("healed")?.expect_unlocked(3)?;
    scenario.passed()
}

/// The agent reads dm-integrity's superblock before the Commit and before it maps, and the kernel
/// reads it once more: a host that tells only the kernel another one must be noticed by what the
/// kernel made of it.
#[test]
fn a_superblock_that_differs_for_the_kernel_alone_is_refused() -> Result<()> {
    const OURS: usize = 2;
    let scenario = Scenario::direct("superblock")?;
    let mut node = scenario.node("worker-0")?;
    node.state.blank(256)?;
    let host = LyingDisk::serve(&node.state, DATA)?;
    node.config.disks.truncate(1);
    node.config.disks.push(host.disk());
    node.start("join")?.expect_unlocked(1)?;
    let honest = node.state.copy_to(&scenario.workspace.file("honest.raw"))?;
    // `struct superblock` of the kernel's `dm-integrity.c`.
    let fields = [
        ("magic", 0, 1),
        ("interleave", 9, 1),
        ("tag-size", 10, 1),
        ("journal-sections", 12, 1),
        ("padding-flag", 24, 8),
        ("block-size", 28, 1),
    ];
    for (field, byte, bits) in fields {
        host.tell(Some(Lie {
            honest_reads: OURS,
            byte,
            bits,
        }));
        node.start(field)?
            .expect_exit(&[exit::MAPPING_DIFFERS, exit::MAPPING])
            .with_context(|| format!("field {field}"))?;
        ensure!(
            host.reads() > OURS,
            "the kernel did not read the superblock"
        );
        // A kernel that believed it wrote what it believed, and that would be refused for ever.
        node.state.put_back(&honest, DATA)?;
    }
    // The kernel computes the size from that of the device, whatever the superblock says.
    host.tell(Some(Lie {
        honest_reads: OURS,
        byte: 16,
        bits: 8,
    }));
    node.start("sectors")?.expect_unlocked(2)?;
    host.tell(None);
    node.start("healed")?.expect_unlocked(3)?;
    scenario.passed()
}

#[test]
fn a_node_killed_at_any_step_of_its_first_boot_heals() -> Result<()> {
    let scenario = Scenario::direct("killed-join")?;
    let mut nodes = (0..).map(|index| scenario.node(&format!("worker-{index}")));
    for cut in JOIN_CUTS {
        hit(cut, || {
            let node = nodes.next().context("names without end")??;
            let hit = kill_at(&node, cut, "killed")?;
            node.start("healed")?.expect_unlocked(1)?;
            Ok(hit)
        })?;
    }
    scenario.passed()
}

#[test]
fn a_node_killed_at_any_step_of_its_second_boot_heals() -> Result<()> {
    let scenario = Scenario::direct("killed-rejoin")?;
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    let mut counters = 2..;
    for cut in REJOIN_CUTS {
        hit(cut, || {
            let counter = counters.next().context("counters without end")?;
            let hit = kill_at(&node, cut, &format!("killed-{counter}"))?;
            node.start(&format!("healed-{counter}"))?
                .expect_unlocked(counter)?;
            Ok(hit)
        })?;
    }
    scenario.passed()
}

#[test]
fn a_join_service_that_comes_late_is_waited_for() -> Result<()> {
    let mut scenario = Scenario::direct("late-service")?;
    scenario.site.join_service.stop()?;
    let node = scenario.node("worker-0")?;
    let mut machine = node.start("join")?;
    still_waits(&mut machine, Duration::from_secs(20))?;
    scenario.site.join_service.start()?;
    machine.expect_unlocked(1)?;
    scenario.passed()
}

#[test]
fn a_key_service_that_is_down_makes_the_node_wait() -> Result<()> {
    let mut scenario = Scenario::direct("key-service-down")?;
    scenario.site.key_service.stop()?;
    let node = scenario.node("worker-0")?;
    let mut machine = node.start("join")?;
    still_waits(&mut machine, WATCH)?;
    scenario.site.key_service.start()?;
    machine.expect_unlocked(1)?;
    node.start("rejoin")?.expect_unlocked(2)?;
    scenario.passed()
}

/// The record is durable before the key is asked for, and so it is while a key service stands still.
#[test]
fn a_join_service_killed_between_record_and_answer_leaves_one_record() -> Result<()> {
    let mut scenario = Scenario::direct("killed-service")?;
    let node = scenario.node("worker-0")?;
    let key_service = scenario.site.key_service.stand_still()?;
    let mut machine = node.start("join")?;
    machine.expect_step("admitted")?;
    let issued = wait_for_record(&scenario, "issued")?;
    scenario.site.join_service.kill()?;
    drop(key_service);
    still_waits(&mut machine, Duration::from_secs(3))?;
    scenario.site.join_service.start()?;
    machine.expect_unlocked(1)?;
    let active = wait_for_record(&scenario, "active")?;
    ensure!(
        active["disk"] == issued["disk"],
        "the record became another one: {issued} {active}"
    );
    node.start("rejoin")?.expect_unlocked(2)?;
    scenario.passed()
}

/// Waits until the store's only record, of whatever state, is in this one.
fn wait_for_record(scenario: &Scenario, state: &str) -> Result<Value> {
    let end = Instant::now() + LINE;
    loop {
        let socket = scenario.site.admin_socket();
        let records = scenario.site.cli.node_list(&socket)?;
        let records = records["nodes"].as_array();
        let records = records.context("`node list` lists no nodes")?;
        ensure!(records.len() <= 1, "more than one record: {records:?}");
        if let Some(record) = records.first().filter(|record| record["state"] == state) {
            return Ok(record.clone());
        }
        ensure!(Instant::now() < end, "never {state}: {records:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn black_holes_and_silent_servers_do_not_stop_the_right_one() -> Result<()> {
    let scenario = Scenario::direct("bad-endpoints")?;
    let silent = SilentServer::listen()?;
    let mut node = scenario.node("worker-0")?;
    let (real, _) = scenario.site.forward();
    node.config
        .forwards
        .push((HOSTILE.to_owned(), silent.port()));
    node.config.hints = Some(hints(&[BLACK_HOLE, HOSTILE, &real]));
    node.start("join")?.expect_unlocked(1)?;
    scenario.passed()
}

/// The server's turns of a session (docs/protocol.md): its TLS flight, hello and verdict, and then the
/// answer to the first call.
const SERVER_HELLO: usize = 2;
const FIRST_ANSWER: usize = 4;

/// However a peer slices its bytes, a session and a call are over at their deadlines (docs/agent.md).
#[test]
fn a_server_that_dribbles_is_given_up_for_the_next_one() -> Result<()> {
    let scenario = Scenario::direct("dribble")?;
    let (real, port) = scenario.site.forward();
    let hostile = Relay::to(port, Pace::DribbleFrom(SERVER_HELLO))?;
    let honest = Relay::to(port, Pace::HangUp)?;
    let mut node = scenario.node("worker-0")?;
    node.config.forwards = vec![
        (HOSTILE.to_owned(), hostile.port()),
        (real.clone(), honest.port()),
    ];
    node.config.hints = Some(hints(&[HOSTILE, &real]));
    let of_hostile = |step: &AgentStep| step.field("address") == Some(HOSTILE);

    let mut machine = node.start("join")?;
    let dialled = machine.expect_step("round")?;
    let ended = machine.follow(|step| step.name == "peer" && of_hostile(step), |_| ())?;
    let took = ended.at.saturating_sub(dialled.at).as_secs();
    ensure!(
        (19..40).contains(&took),
        "a session took {took} s: {ended:?}"
    );
    honest.set(Pace::Full);
    machine.expect_unlocked(1)?;

    honest.set(Pace::HangUp);
    hostile.set(Pace::DribbleFrom(FIRST_ANSWER));
    let mut machine = node.start("rejoin")?;
    let admitted = machine.expect_step("admitted")?;
    ensure!(of_hostile(&admitted), "{admitted:?}");
    honest.set(Pace::Full);
    let failed = machine.expect_step("ticket")?;
    ensure!(failed.field("error").is_some(), "{failed:?}");
    let took = failed.at.saturating_sub(admitted.at).as_secs();
    ensure!((29..45).contains(&took), "a call took {took} s: {failed:?}");
    machine.expect_unlocked(2)?;
    scenario.passed()
}

#[test]
fn a_late_dhcp_server_is_waited_for() -> Result<()> {
    let scenario = Scenario::direct("late-dhcp")?;
    let mut node = scenario.node("worker-0")?;
    node.config.link_down = true;
    let mut machine = node.start("join")?;
    still_waits(&mut machine, WATCH)?;
    machine.qmp().set_link(true)?;
    machine.expect_unlocked(1)?;
    scenario.passed()
}

#[test]
fn hints_come_from_the_metadata_service_too() -> Result<()> {
    let scenario = Scenario::direct("metadata")?;
    let mut node = scenario.node("worker-0")?;
    let hints = node.config.hints.take().context("a node has hints")?;
    let metadata = Metadata::serve(&hints)?;
    node.config.metadata = Some(metadata.port());
    let mut machine = node.start("join")?;
    // The same network has a router that advertises a prefix.
    let network = machine.expect_step("network")?;
    for family in ["169.254.169.", "fec0::"] {
        let mut addresses = network.fields.iter().filter(|(key, _)| key == "address");
        ensure!(
            addresses.any(|(_, address)| address.starts_with(family)),
            "no address of {family}: {network:?}"
        );
    }
    machine.expect_unlocked(1)?;
    ensure!(metadata.requests() > 0, "nobody asked for metadata");
    scenario.passed()
}

#[test]
fn endpoints_may_be_names() -> Result<()> {
    let scenario = Scenario::direct("names")?;
    let mut node = scenario.node("worker-0")?;
    let (address, port) = GUEST_JOIN_SERVICE.split_once(':').context("an address")?;
    let names = NameServer::start(&[("join.cluster.test", address.parse()?)])?;
    node.config.name_server = Some(names.clone());
    let endpoints = ["gone.cluster.test", "join.cluster.test"].map(|name| format!("{name}:{port}"));
    let hints = json!({"endpoints": endpoints, "node_name": "worker-0", "role": "worker"});
    node.config.hints = Some(hints.to_string());
    let mut machine = node.start("join")?;
    let network = machine.expect_step("network")?;
    ensure!(
        network
            .fields
            .contains(&("name_servers".into(), "1".into())),
        "no name server: {network:?}"
    );
    machine.expect_unlocked(1)?;
    let asked = names.asked();
    for name in ["gone.cluster.test", "join.cluster.test"] {
        ensure!(asked.iter().any(|asked| asked == name), "not asked: {name}");
    }
    scenario.passed()
}

#[test]
fn malformed_metadata_is_no_reason_to_stop() -> Result<()> {
    let scenario = Scenario::direct("bad-metadata")?;
    let mut node = scenario.node("worker-0")?;
    node.config.hints = None;
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n{}",
        "[".repeat(2_000_000)
    );
    let flood: Vec<_> = (0..1000)
        .map(|port| format!("169.254.169.97:{}", 1000 + port))
        .collect();
    let flood = json!({"endpoints": flood, "node_name": "worker-0", "role": "worker"}).to_string();
    let flood = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{flood}",
        flood.len()
    );
    let answers = [
        ("garbage", "\0\0\0\0".to_owned()),
        (
            "not-json",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{".to_owned(),
        ),
        ("too-long", long),
        ("flood", flood),
    ];
    for (name, answer) in answers {
        let metadata = Metadata::answer(answer)?;
        node.config.metadata = Some(metadata.port());
        let mut machine = node.start(name)?;
        let end = Instant::now() + LINE;
        while metadata.requests() == 0 {
            ensure!(Instant::now() < end, "nobody asked for metadata {name}");
            std::thread::sleep(Duration::from_millis(100));
        }
        still_waits(&mut machine, WATCH).with_context(|| format!("metadata {name}"))?;
    }
    ensure!(
        node.state.is_blank()?,
        "a node without admission wrote to its disk"
    );
    scenario.passed()
}

#[test]
fn the_clock_of_the_host_does_not_matter() -> Result<()> {
    let scenario = Scenario::direct("clock")?;
    let mut node = scenario.node("worker-0")?;
    for (counter, year) in [(1, "1970"), (2, "2100")] {
        node.config.clock = Some(format!("{year}-01-02T00:00:00"));
        node.start(year)?.expect_unlocked(counter)?;
    }
    scenario.passed()
}

#[test]
fn a_tpm_of_another_authority_is_refused() -> Result<()> {
    let scenario = Scenario::direct("foreign-authority")?;
    let foreign = TpmAuthority::create(&scenario.workspace.file("foreign-authority"))?;
    let mut node = scenario.node("worker-0")?;
    let tpm = Swtpm::manufacture(&scenario.workspace.file("foreign.tpm"), &foreign)?;
    node.config.tpm = Some(tpm);
    scenario.expect_refused(&node, "join", &["appraisal refused", "certificate"])?;
    ensure!(node.state.is_blank()?, "a refused node wrote to its disk");
    scenario.passed()
}

#[test]
fn a_foreign_owners_join_service_gets_nowhere() -> Result<()> {
    let scenario = Scenario::direct("foreign-owner")?;
    let mut foreign = Site::borrow_in(&scenario.workspace, "foreign-site")?;
    foreign.trust(&scenario.authority)?;
    foreign.accept_image("test", &qemu_tests::direct_boot_pcrs(scenario.accelerator)?)?;
    foreign.start()?;
    let mut node = scenario.node("worker-0")?;
    node.config.forwards = vec![foreign.forward()];
    let mut machine = node.start("foreign")?;
    still_waits(&mut machine, WATCH)?;
    machine.kill()?;
    ensure!(
        node.state.is_blank()?,
        "a foreign service made the node write to its disk"
    );
    node.config.forwards = vec![scenario.site.forward()];
    node.start("own")?.expect_unlocked(1)?;
    scenario.passed()
}

/// Repeats a cut until it hits.
fn hit(cut: Cut, mut attempt: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..TRIES {
        if attempt().with_context(|| format!("killed at {cut:?}"))? {
            return Ok(());
        }
    }
    bail!("{TRIES} cuts missed {cut:?}")
}

/// Cuts the power as soon as the agent writes the line; gives whether the disk is then as it should be.
fn kill_at(node: &Node, (step, nth, wanted): Cut, boot: &str) -> Result<bool> {
    let mut machine = node.start(boot)?;
    for _ in 0..nth {
        machine.expect_step(step)?;
    }
    machine.kill()?;
    let disk = File::open(node.state.path())?;
    // The generation in the clear, at its place in a slot (`docs/state-disk.md`).
    let generations = SLOTS.map(|slot| {
        let mut generation = [0; 8];
        disk.read_exact_at(&mut generation, slot + 32)
            .map(|()| generation)
    });
    let [first, second] = generations;
    let found = if first? == second? { Equal } else { Unequal };
    Ok(wanted == Any || wanted == found)
}

/// The node neither gives up nor unlocks for a while.
fn still_waits(machine: &mut Machine, time: Duration) -> Result<()> {
    machine.console.expect("agent: ", LINE)?;
    std::thread::sleep(time);
    for (_, step) in machine.console.agent_steps() {
        let name = step.name.as_str();
        ensure!(
            !matches!(name, "exit" | "failed" | "latch" | "switch-root"),
            "the node does not wait: {step:?}"
        );
    }
    ensure!(machine.exit_status()?.is_none(), "the machine is off");
    Ok(())
}

/// Hints for worker-0 with these endpoints.
fn hints(endpoints: &[&str]) -> String {
    json!({"endpoints": endpoints, "node_name": "worker-0", "role": "worker"}).to_string()
}
