//! Scenarios with the state disk as their subject: its format, a full disk, power cuts, a host that
//! alters it, mappings that are somebody else's, and a disk that was planted.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{
    Boot, Disk, DiskGuest, DiskReport, Image, Machine, MachineConfig, Metadata, Node, Scenario,
    Site, Workspace, agent_of, direct_boot_pcrs, exit, run,
};

const MIB: u64 = 1024 * 1024;

/// A disk that is filled to its last block.
const FULL_MIB: u64 = 192;

/// The smallest disk that the agent takes.
const SMALL_MIB: u64 = 128;

/// How often the power is cut.
const POWER_CUTS: u32 = 20;

/// A boot up to the first step on the disk, on a busy machine.
const BOOT: Duration = Duration::from_secs(180);

/// The rest of the console after a machine is killed.
const LINE: Duration = Duration::from_secs(10);

/// How long a node is watched that must go on waiting.
const WATCH: Duration = Duration::from_secs(5);

/// What the agent says of a mapping that it did not make.
const EXISTS: &str = "exists already";

/// What the agent says of a peer that proves another owner.
const NOT_THE_OWNER: &str = "does not act for the owner of this image";

/// What the agent says of a table that it did not load.
const DIFFERS: &str = "live table differs";

/// What a host does to a disk.
type Change<'a> = &'a dyn Fn(&Disk) -> Result<()>;

/// Bytes that the disk's file takes on the host.
fn allocated(disk: &Disk) -> Result<u64> {
    // st_blocks counts 512 bytes, stat(2).
    Ok(disk.path().metadata()?.blocks() * 512)
}

#[test]
fn formatting_writes_no_more_on_a_large_disk() -> Result<()> {
    let workspace = Workspace::create("disk-format")?;
    let guest = DiskGuest::build(&workspace)?;
    let format = |name: &str, mebibytes: u64| -> Result<u64> {
        let disk = Disk::blank_state(&workspace.file(&format!("{name}.raw")), mebibytes)?;
        let report = guest.run(name, "format,check", &disk)?;
        report.expect_no_errors()?;
        ensure!(report.number("bytes")? == mebibytes * MIB, "another disk");
        ensure!(report.count(" clean") == 2, "e2fsck did not run twice");
        let written = allocated(&disk)?;
        println!(
            "{name}: format_ms={} host_bytes={written}",
            report.number("format_ms")?
        );
        Ok(written)
    };
    let small = format("1g", 1024)?;
    let large = format("64g", 64 * 1024)?;
    // Both journals have 8 MiB; superblocks, tables and tags are what is left.
    ensure!(small < 20 * MIB, "formatting 1 GiB wrote {small} bytes");
    ensure!(
        large * 4 < small * 5,
        "formatting 64 GiB wrote {large} bytes, 1 GiB {small}"
    );
    workspace.passed()
}

#[test]
fn a_full_disk_meets_no_unwritten_sector() -> Result<()> {
    let workspace = Workspace::create("disk-full")?;
    let guest = DiskGuest::build(&workspace)?;
    let disk = Disk::blank_state(&workspace.file("full.raw"), FULL_MIB)?;
    let filled = guest.run("fill", "format,check,fill", &disk)?;
    filled.expect_no_errors()?;
    let bytes = filled.number("filled")?;
    ensure!(filled.number("left")? == 0, "the disk is not full");
    ensure!(filled.count(" clean") == 3, "e2fsck did not run each time");
    ensure!(bytes > 3 * FULL_MIB * MIB / 4, "{bytes} bytes filled it");

    let read = guest.run("read", "read,check", &disk)?;
    read.expect_no_errors()?;
    ensure!(
        read.number("read-back")? == bytes,
        "not all of it was read back"
    );
    ensure!(read.count(" clean") == 1, "e2fsck did not run");
    workspace.passed()
}

#[test]
fn a_host_that_alters_the_disk_is_refused() -> Result<()> {
    let workspace = Workspace::create("disk-altered")?;
    let guest = DiskGuest::build(&workspace)?;
    let disk = Disk::blank_state(&workspace.file("altered.raw"), SMALL_MIB)?;
    let report = guest.run("altered", "format,refusals,check,tamper", &disk)?;
    for (line, refused) in [
        ("altered-superblock", 67),
        ("existing-mapping", 2),
        ("differing-table", 3),
        ("other-keys", 1),
        ("tampered", 7),
    ] {
        let line = format!("disk-test: 0 {line} refused={refused}");
        ensure!(report.count(&line) == 1, "no line `{line}`");
    }
    // Each refusal of a sector is in the kernel's log, so its silence elsewhere means something.
    ensure!(report.number("provoked")? >= 8, "too few integrity errors");
    ensure!(report.expect_no_errors().is_err(), "none on the console");
    workspace.passed()
}

#[test]
fn power_cuts_lose_no_synced_file() -> Result<()> {
    let workspace = Workspace::create("disk-power-cuts")?;
    let guest = DiskGuest::build(&workspace)?;
    let disk = Disk::blank_state(&workspace.file("state.raw"), 64 * 1024)?;
    guest.run("format", "format", &disk)?.expect_no_errors()?;
    let mut cuts = PowerCuts::new()?;
    for round in 0..POWER_CUTS {
        let context = format!("round {round}, seed {}", cuts.seed);
        cuts.round(round, &guest, &disk).context(context)?;
    }
    let boot = guest.boot("verify,check", &cuts.synced_word())?;
    let report = DiskGuest::finish(guest.machine(boot, &disk).start("end")?)?;
    report.expect_no_errors()?;
    cuts.expect_recovered(&report)?;
    ensure!(
        report.number("verified")? == cuts.synced,
        "not all verified"
    );
    ensure!(report.count(" clean") == 2, "e2fsck did not run twice");
    ensure!(cuts.synced >= u64::from(POWER_CUTS), "there was no load");
    workspace.passed()
}

/// A machine that is killed again and again while it writes to one disk.
struct PowerCuts {
    seed: u64,
    random: SplitMix,
    /// The last file that the guest reported as synced.
    synced: u64,
    /// Whether any boot died with the file system mounted: from then on none unmounts it.
    mounted: bool,
}

impl PowerCuts {
    /// The seed comes from the clock, and is printed.
    fn new() -> Result<Self> {
        let seed = u64::try_from(UNIX_EPOCH.elapsed()?.as_millis())?;
        println!("power cuts: seed {seed}");
        Ok(Self {
            seed,
            random: SplitMix(seed),
            synced: 0,
            mounted: false,
        })
    }

    /// One boot: what was synced before is whole; then more is written until the power is cut, up
    /// to two seconds after the first sync, or in every fourth round while it is being mounted.
    fn round(&mut self, round: u32, guest: &DiskGuest, disk: &Disk) -> Result<()> {
        let boot = guest.boot("load", &self.synced_word())?;
        let mut machine = guest.machine(boot, disk).start(&format!("cut-{round}"))?;
        let early = round % 4 == 3;
        let (line, most) = if early {
            ("disk-test: 0 mapping", 1000)
        } else {
            ("disk-test: synced=", 2000)
        };
        let ends = [line, "disk-test: failed"];
        let (end, found) = machine.console.expect_any(&ends, BOOT)?;
        ensure!(end == 0, "{}", found.text);
        let delay = self.random.below(most);
        thread::sleep(Duration::from_millis(delay));
        machine.kill()?;
        machine.console.wait_closed(LINE)?;
        let report = DiskReport::of(&machine);
        report.expect_no_errors()?;
        ensure!(report.count("disk-test: failed") == 0, "the guest failed");
        let verified = report.last("verified");
        ensure!(
            verified.is_none_or(|verified| verified == self.synced),
            "not all verified"
        );
        if verified.is_some() {
            self.expect_recovered(&report)?;
        }
        self.mounted |= verified.is_some();
        self.synced = report.last("synced").unwrap_or(self.synced);
        println!(
            "round {round}: cut {delay} ms after `{line}`, {} synced",
            self.synced
        );
        Ok(())
    }

    /// A file system that was mounted at the power cut is recovered by its journal.
    fn expect_recovered(&self, report: &DiskReport) -> Result<()> {
        let recoveries = report.number("recoveries")?;
        ensure!(
            recoveries == u64::from(self.mounted),
            "{recoveries} recoveries, mounted at the cut: {}",
            self.mounted
        );
        Ok(())
    }

    fn synced_word(&self) -> String {
        format!("disk-test-synced={}", self.synced)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a few numbers from a seed.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[test]
fn an_altered_root_does_not_start() -> Result<()> {
    let workspace = Workspace::create("disk-root")?;
    let image = Image::of("release")?;
    let cmdline = format!("constellation.owner={}", "0".repeat(64));
    let Boot::Kernel {
        kernel,
        initrd,
        cmdline,
    } = image.direct(&cmdline)?
    else {
        anyhow::bail!("a direct boot has a kernel");
    };
    let (before, root) = cmdline
        .split_once("constellation.root=")
        .context("no root")?;
    let (blocks, _) = root.split_once(':').context("no number of blocks")?;
    let tree = blocks.parse::<u64>()? * 4096;
    let state = Disk::blank_state(&workspace.file("state.raw"), SMALL_MIB)?;
    let start = |name: &str, cmdline: &str, change: Change<'_>| {
        let root = Disk::root(&image.root()).copy_to(&workspace.file(&format!("{name}.img")))?;
        change(&root)?;
        let boot = Boot::Kernel {
            kernel: kernel.clone(),
            initrd: initrd.clone(),
            cmdline: cmdline.to_owned(),
        };
        let accelerator = qemu_tests::accelerator(&kernel)?;
        let mut config = MachineConfig::new(&workspace, accelerator, boot);
        config.disks = vec![root, state.clone()];
        config.start(name)
    };
    start("unaltered", &cmdline, &|_| Ok(()))?.expect_step("root")?;
    // The superblock of erofs is 1,024 bytes from the start.
    let altered: [(&str, Change<'_>); 3] = [
        ("superblock", &|root| root.flip(1024, 1)),
        ("hash-tree", &|root| root.flip(tree + 7, 1)),
        ("cut", &|root| {
            let file = std::fs::File::options().write(true).open(root.path())?;
            Ok(file.set_len(tree)?)
        }),
    ];
    for (name, change) in altered {
        let mut machine = start(name, &cmdline, change)?;
        machine.expect_exit(&[exit::ROOT_REFUSED]).context(name)?;
    }
    // The last digit of the root hash.
    let (hash, more) = root.split_once(' ').context("no word after the root")?;
    let last = if hash.ends_with('0') { "1" } else { "0" };
    let hash = hash.get(..hash.len() - 1).context("no root hash")?;
    let other = format!("{before}constellation.root={hash}{last} {more}");
    start("other-hash", &other, &|_| Ok(()))?.expect_exit(&[exit::ROOT_REFUSED])?;
    ensure!(
        state.is_blank()?,
        "a machine without root wrote to its disk"
    );
    workspace.passed()
}

#[test]
fn mappings_that_are_not_the_agents_are_refused() -> Result<()> {
    let scenario = Scenario::direct("clashes")?;
    let guest = DiskGuest::build_on(&scenario.workspace, scenario.image.clone())?;
    ensure!(
        guest.agent_digest()? == agent_of(&Image::of("release")?)?,
        "the agent under test is not the released one"
    );
    let owner = format!("constellation.owner={}", scenario.site.owner);
    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    let clash = |deed: &str, mapping: &str, code: u32, cause: &str| -> Result<()> {
        let mut clashing = node.clone();
        clashing.config.boot = guest.boot(&format!("{deed}:{mapping}"), &owner)?;
        let mut machine = clashing.start(&format!("{deed}-{mapping}"))?;
        machine.expect_exit(&[code])?;
        let report = DiskReport::of(&machine);
        ensure!(
            report.count(&format!("d={mapping}")) == 1,
            "there was no clash"
        );
        ensure!(report.count(cause) > 0, "the agent does not say `{cause}`");
        Ok(())
    };
    clash("plant", "constellation-root", exit::ROOT_REFUSED, EXISTS)?;
    for mapping in ["constellation-state-integrity", "constellation-state"] {
        clash("plant", mapping, exit::MAPPING_DIFFERS, EXISTS)?;
        clash("replace", mapping, exit::MAPPING_DIFFERS, DIFFERS)?;
    }
    node.start("rejoin")?.expect_unlocked(2)?;
    scenario.passed()
}

/// With a TPM: on SEV-SNP a child asks for the report, because such a request cannot be interrupted (docs/sev-snp.md).
/// Hints come from the metadata service, the one part of the network that is a library's.
#[test]
fn with_a_tpm_the_agent_needs_no_thread_and_of_programs_only_mke2fs() -> Result<()> {
    let scenario = Scenario::direct("alone")?;
    let guest = DiskGuest::build_on(&scenario.workspace, scenario.image.clone())?;
    ensure!(
        guest.agent_digest()? == agent_of(&Image::of("release")?)?,
        "the agent under test is not the released one"
    );
    let owner = format!("constellation.owner={}", scenario.site.owner);
    let node = scenario.node("worker-0")?;
    let mut alone = node.clone();
    alone.config.boot = guest.boot("alone", &owner)?;
    let hints = alone.config.hints.take().context("a node has hints")?;
    let metadata = Metadata::serve(&hints)?;
    alone.config.metadata = Some(metadata.port());
    let mut machine = alone.start("join-alone")?;
    machine.expect_exit(&[exit::FORMAT])?;
    let limit = "start `/sbin/mke2fs` of the verified root: Resource temporarily unavailable";
    ensure!(
        DiskReport::of(&machine).count(limit) == 1,
        "it was not the limit that ended the boot"
    );
    let asked = metadata.requests();
    ensure!(asked > 0, "hints came from elsewhere");
    node.start("join")?.expect_unlocked(1)?;
    // What the agent starts in its own place may start nothing either, so this boot ends there.
    alone.start("rejoin-alone")?.expect_step("switch-root")?;
    ensure!(metadata.requests() > asked, "hints came from elsewhere");
    node.start("rejoin")?.expect_unlocked(2)?;
    scenario.passed()
}

#[test]
fn a_planted_disk_and_a_foreign_recover_get_nowhere() -> Result<()> {
    let mut scenario = Scenario::direct("planted")?;
    let mut foreign = Site::borrow_in(&scenario.workspace, "foreign-site")?;
    foreign.trust(&scenario.authority)?;
    foreign.accept_image("test", &direct_boot_pcrs(scenario.accelerator)?)?;
    foreign.start()?;
    let theirs = foreign_node(&scenario, &foreign)?;
    theirs.start("join")?.expect_unlocked(1)?;
    let their_records = foreign.save_records()?;

    let node = scenario.node("worker-0")?;
    node.start("join")?.expect_unlocked(1)?;
    let our_records = scenario.site.save_records()?;

    let planted = node.with_state(&theirs.state);
    let original = theirs
        .state
        .copy_to(&scenario.workspace.file("original.raw"))?;
    scenario.site.stop()?;
    let mut machine = planted.start("planted")?;
    expect_refused_recover(&foreign, &mut machine, &their_records)?;
    let position = scenario.site.join_service.log_position();
    scenario.site.start()?;
    machine.expect_exit(&[exit::REFUSED])?;
    let log = &scenario.site.join_service;
    log.expect_log(position, &["no record"], LINE)?;
    let mut compare = Command::new("cmp");
    compare.args([theirs.state.path(), original.path()]);
    run(&mut compare).context("the node wrote to a disk that is not its own")?;

    scenario.site.stop()?;
    let mut machine = node.start("foreign-recover")?;
    expect_refused_recover(&foreign, &mut machine, &our_records)?;
    scenario.site.start()?;
    machine.expect_unlocked(2)?;
    scenario.passed()
}

/// A node of the foreign owner, with the same image and a TPM of the same authority.
fn foreign_node(scenario: &Scenario, foreign: &Site) -> Result<Node> {
    let owner = format!("constellation.owner={}", foreign.owner);
    let boot = scenario.image.direct(&owner)?;
    let config = MachineConfig::new(&scenario.workspace, scenario.accelerator, boot);
    Node::new(
        "their-worker",
        config,
        &scenario.image,
        foreign,
        &scenario.authority,
    )
}

/// The foreign owner attests the waiting node and is refused by it; the node goes on waiting.
fn expect_refused_recover(foreign: &Site, machine: &mut Machine, records: &Path) -> Result<()> {
    machine.expect_step("listening")?;
    let Err(error) = foreign.recover(machine.push_port(), records) else {
        anyhow::bail!("a foreign owner recovered the node");
    };
    let error = format!("{error:#}");
    for part in ["the node refuses us", "exit status: 3"] {
        ensure!(error.contains(part), "no `{part}` in: {error}");
    }
    machine.console.expect(NOT_THE_OWNER, LINE)?;
    thread::sleep(WATCH);
    for (_, step) in machine.console.agent_steps() {
        let acts = matches!(
            step.name.as_str(),
            "admitted" | "ticket" | "exit" | "failed"
        );
        ensure!(!acts, "the node does not wait: {step:?}");
    }
    ensure!(machine.exit_status()?.is_none(), "the machine is off");
    Ok(())
}
