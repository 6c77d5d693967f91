//! Scenarios about SEV-SNP: the released agent on a guest interface that a test provides.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::exit::{EVIDENCE_MALFORMED, EVIDENCE_REFUSED, STALLED, THROTTLED};
use qemu_tests::{
    Chip, GUEST_JOIN_SERVICE, MINIMUM, Metadata, SnpGuest, SnpScenario, Swtpm, TpmAuthority,
    Workspace, agent_of, development_root, direct_boot_pcrs, owned, vouch,
};
use serde_json::json;
use snp_device::Answer;
use software_snp::Product;
use software_snp::table::{self, Flaw};

/// An address of the virtual network for the join service of somebody else.
const VICTIM: &str = "169.254.169.98:30090";

/// A conversation under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent's collection calls a stall, and a little more.
const STALL: Duration = Duration::from_secs(14);

#[test]
fn evidence_is_collected_or_the_failure_named() -> Result<()> {
    let workspace = Workspace::create("snp-collect")?;
    let guest = SnpGuest::prepare(&workspace)?;
    let chip = Chip::new(&development_root("own")?, Product::Milan, 1);
    let mut behaviour = chip.guest([0x5a; 48])?;
    // What one attempt meets, and what the agent's code says of it.
    let cases: [(&[Answer], &str); 13] = [
        (&[Answer::Honest], ""),
        (&[Answer::busy(), Answer::busy(), Answer::Honest], ""),
        (&[Answer::Status(0x16)], "expected status 0, got 0x16"),
        (
            &[Answer::ReportSize(0)],
            "report_size: expected 1184, got 0",
        ),
        (
            &[Answer::ReportSize(1183)],
            "report_size: expected 1184, got 1183",
        ),
        (
            &[Answer::ReportSize(4001)],
            "report_size: expected 1184, got 4001",
        ),
        (
            &[Answer::CertificatesLength(0)],
            "certs_len: expected whole pages",
        ),
        (&[Answer::CertificatesLength(0xffff_f000)], "got 4294963200"),
        (&[Answer::CertificatesLength(0x4001)], "got 16385"),
        (
            &[Answer::CertificatesBeside(0x8000)],
            "certs_len: expected whole pages",
        ),
        (&[Answer::Stall], "no answer within"),
        (&[Answer::Honest], ""),
        (&[Answer::throttled_for_good(0)], "keeps the firmware busy"),
    ];
    behaviour.answers = cases
        .iter()
        .flat_map(|(answers, _)| *answers)
        .cloned()
        .collect();
    let count = u32::try_from(cases.len())?;
    let attempts = guest.collect("collect", &behaviour, count + 1)?;
    for (attempt, (answers, expected)) in attempts.iter().zip(cases) {
        let error = attempt.error.as_deref().unwrap_or_default();
        ensure!(error.contains(expected), "{answers:?}: {attempt:?}");
        ensure!(
            error.is_empty() == expected.is_empty(),
            "{answers:?}: {attempt:?}"
        );
        if expected.is_empty() {
            let report_data = attempt.report.get(0x50..0x90);
            ensure!(report_data == Some(attempt.binding.as_slice()));
            ensure!(attempt.report.len() == 1184 && attempt.certificates == behaviour.certificates);
        }
        ensure!(
            (attempt.took > STALL) == (answers == [Answer::Stall]),
            "{attempt:?}"
        );
    }
    // The driver has given up its message key with the failed request.
    let last = attempts.last().context("no attempt")?;
    ensure!(
        last.error
            .as_deref()
            .is_some_and(|error| error.contains("Not a tty")),
        "{last:?}"
    );
    workspace.passed()
}

/// The initial RAM disk of these tests holds the agent that is released.
#[test]
fn the_agent_is_the_released_one() -> Result<()> {
    let workspace = Workspace::create("snp-agent")?;
    let guest = SnpGuest::prepare(&workspace)?;
    let released = qemu_tests::Image::of("release")?;
    ensure!(guest.agent_digest()? == agent_of(&released)?);
    workspace.passed()
}

/// Each boot has a `REPORT_ID` of its own; one that comes back is a boot that has its key already,
/// with newer boots between or not.
#[test]
fn a_node_joins_and_rejoins_and_an_old_boot_gets_nothing() -> Result<()> {
    let scenario = SnpScenario::new("join")?;
    let mut boot = scenario.honest()?;
    boot.fresh_report_id = false;
    let mut node = scenario.node("worker-0", &boot)?;
    for (counter, id) in [(1, 0xa1), (2, 0xa2)] {
        boot.report.report_id = [id; 32];
        node.behave(&boot)?;
        node.start(&format!("boot-{counter}"))?
            .expect_unlocked(counter)?;
    }
    boot.report.report_id = [0xa1; 32];
    node.behave(&boot)?;
    scenario.expect_node_refused(&node, "again", &["boot"])?;
    scenario.passed()
}

/// What a Turin chip has of its own, in a whole boot.
#[test]
fn a_node_on_a_turin_chip_joins() -> Result<()> {
    let scenario = SnpScenario::with("turin", Product::Turin, "sev-snp")?;
    let node = scenario.node("worker-0", &scenario.honest()?)?;
    node.start("join")?.expect_unlocked(1)?;
    scenario.passed()
}

/// Another command line is another launch measurement, computed from what really boots.
#[test]
fn another_command_line_is_refused() -> Result<()> {
    let mut scenario = SnpScenario::new("cmdline")?;
    let more = format!("{} quiet", owned(&scenario.site));
    scenario.boot = scenario.guest.boot("sev-snp", &more)?;
    scenario.expect_refused(
        "worker-0",
        &scenario.honest()?,
        &["launch measurement of image `test`"],
    )?;
    scenario.passed()
}

/// Every rule about what a good key signs.
#[test]
fn guests_that_break_the_policy_are_refused() -> Result<()> {
    let scenario = SnpScenario::new("policy")?;
    let honest = scenario.honest()?;
    let mut debug = honest.clone();
    debug.report.policy |= 1 << 19;
    scenario.expect_refused("debug", &debug, &["guest policy: debug"])?;
    let mut migration = honest.clone();
    migration.report.policy |= 1 << 18;
    scenario.expect_refused("migration", &migration, &["guest policy: migration agent"])?;
    let mut vmpl = honest;
    vmpl.report.vmpl = 1;
    scenario.expect_refused("vmpl", &vmpl, &["VMPL"])?;
    let mut old = scenario.chip.clone();
    old.tcb.microcode = MINIMUM.microcode - 1;
    let old = old.guest(scenario.guest.measurement(&scenario.boot)?)?;
    scenario.expect_refused("tcb", &old, &["reported TCB: microcode"])?;
    scenario.passed()
}

/// A key that the policy does not ask for, and one that nobody trusts.
#[test]
fn guests_with_another_key_are_refused() -> Result<()> {
    let scenario = SnpScenario::new("keys")?;
    let chain = scenario.chip.root.chain(Product::Milan);
    let mut vlek = scenario.honest()?;
    vlek.leaf = scenario.chip.vlek()?;
    vlek.report = vlek.report.with_vlek();
    vlek.certificates = table::encode(&[
        (table::VLEK, vlek.leaf.certificate()),
        (table::ASK, &chain.asvk),
        (table::ARK, &chain.ark),
    ]);
    scenario.expect_refused("vlek", &vlek, &["VLEK"])?;
    let impostor = Chip::new(&development_root("impostor")?, Product::Milan, 1);
    let impostor = impostor.guest(scenario.guest.measurement(&scenario.boot)?)?;
    // A chain under another root is no certificate at all; the right one may still come.
    let missing = ["certificate of Milan Vcek", "is not here"];
    scenario.expect_unavailable("impostor", &impostor, &missing)?;
    scenario.passed()
}

/// Reports that a good key signed for somebody else.
#[test]
fn reports_of_other_boots_and_guests_are_refused() -> Result<()> {
    let scenario = SnpScenario::new("relay")?;
    let honest = scenario.honest()?;
    let collected = scenario.guest.collect("earlier", &honest, 1)?;
    let earlier = collected.into_iter().next().context("no report")?;
    let mut replayed = honest.clone();
    replayed.answers = vec![Answer::Fixed(earlier.report)];
    scenario.expect_refused("replay", &replayed, &["REPORT_DATA"])?;
    let other = Chip::new(&scenario.chip.root, Product::Milan, 2);
    let other = other.guest(honest.report.measurement)?;
    let report = other.report.signed_by(&other.leaf)?;
    let mut relayed = other;
    relayed.answers = vec![Answer::Fixed(report.to_vec())];
    scenario.expect_refused("relay", &relayed, &["REPORT_DATA"])?;
    scenario.passed()
}

/// Interfaces that give no report: the agent ends the boot with the number of the reason.
#[test]
fn an_agent_without_evidence_says_why() -> Result<()> {
    let scenario = SnpScenario::new("no-evidence")?;
    let cases = [
        ("throttled", Answer::busy(), THROTTLED),
        ("stalled", Answer::Stall, STALLED),
        ("unread", Answer::StallUnread, STALLED),
        ("firmware", Answer::firmware(0x16), EVIDENCE_REFUSED),
        ("report-size", Answer::ReportSize(1183), EVIDENCE_MALFORMED),
    ];
    for (name, answer, code) in cases {
        let mut behaviour = scenario.honest()?;
        behaviour.answers = vec![answer];
        let node = scenario.node(name, &behaviour)?;
        let ended = node.start("boot")?.expect_exit(&[code]);
        ended.with_context(|| format!("interface {name}"))?;
        ensure!(node.state.is_blank()?, "{name}: the node wrote to its disk");
    }
    scenario.passed()
}

/// Root of a booted guest asks for keys with a report of its own boot: it has another sealing key
/// than the agent had, and a boot claim names one.
#[test]
fn a_second_request_in_one_boot_is_refused() -> Result<()> {
    let scenario = SnpScenario::new("second-request")?;
    let mut node = scenario.node("worker-0", &scenario.honest()?)?;
    let arguments = format!("{GUEST_JOIN_SERVICE} {} $disk", scenario.site.owner);
    let program = scenario.guest.image().snp_request();
    node.run_in_root(&program, &arguments)?;
    for boot in ["join", "rejoin"] {
        let mut machine = node.start(boot)?;
        machine.expect_step("switch-root")?;
        for path in ["rejoin", "join"] {
            let begin = format!("snp-request: {path} ");
            let answer = machine.console.expect(&begin, PATIENCE)?.text;
            ensure!(answer.ends_with("grpc status 7: refused"), "{answer}");
        }
        machine.console.expect("root: test exit=0", PATIENCE)?;
        machine.console.expect("root: status=ok", PATIENCE)?;
        machine.wait_off(PATIENCE)?;
    }
    let (log, _) = scenario.site.audit_log("key-service");
    let log = std::fs::read_to_string(log)?;
    let releases = log.matches(r#""action":"release""#).count();
    ensure!(releases == 2, "{releases} releases:\n{log}");
    scenario.passed()
}

/// The host runs the same image for an owner of its own, is root there, and asks for the key of a
/// disk that it has copied. The measured command line names another owner.
#[test]
fn root_under_another_owner_gets_no_key_of_a_known_disk() -> Result<()> {
    let scenario = SnpScenario::new("known-disk")?;
    let node = scenario.node("worker-0", &scenario.honest()?)?;
    node.start("join")?.expect_unlocked(1)?;
    let records = scenario.site.cli.node_list(&scenario.site.admin_socket())?;
    let disk = records["nodes"][0]["disk"].as_str();
    let disk = disk.with_context(|| format!("no disk in {records}"))?;

    let foreign = SnpScenario::new("known-disk-foreign")?;
    let mut intruder = foreign.node("worker-0", &foreign.honest()?)?;
    let (_, port) = scenario.site.forward();
    intruder.config.forwards.push((VICTIM.to_owned(), port));
    let arguments = format!("{VICTIM} {} {disk}", scenario.site.owner);
    intruder.run_in_root(&foreign.guest.image().snp_request(), &arguments)?;
    let position = scenario.site.join_service.log_position();
    let mut machine = intruder.start("join")?;
    machine.expect_step("switch-root")?;
    for path in ["rejoin", "join"] {
        let begin = format!("snp-request: {path} ");
        let answer = machine.console.expect(&begin, PATIENCE)?.text;
        ensure!(answer.contains("refused by the owner: refused"), "{answer}");
    }
    let line = ["check failed", "launch measurement of image `test`"];
    scenario
        .site
        .join_service
        .expect_log(position, &line, PATIENCE)?;
    foreign.passed()?;
    scenario.passed()
}

/// The host's table is hostile input of the verifier.
#[test]
fn tables_that_the_specification_does_not_allow_are_refused() -> Result<()> {
    let scenario = SnpScenario::new("tables")?;
    let chain = scenario.chip.root.chain(Product::Milan);
    for flaw in [Flaw::PastTheEnd, Flaw::Overlap, Flaw::Unterminated] {
        let mut behaviour = scenario.honest()?;
        let certificates = [
            (table::VCEK, behaviour.leaf.certificate()),
            (table::ASK, &chain.ask),
        ];
        behaviour.certificates = table::encode_flawed(&certificates, flaw);
        let name = format!("{flaw:?}").to_lowercase();
        scenario.expect_refused(&name, &behaviour, &["check failed", "certificate table"])?;
    }
    scenario.passed()
}

/// A host without certificates: the join service has none either, tells the node to come again,
/// fetches, and the node is in without anybody's help.
#[test]
fn a_certificate_that_nobody_brings_is_fetched() -> Result<()> {
    let mut scenario = SnpScenario::prepare("fetched", Product::Milan, "sev-snp")?;
    let mut behaviour = scenario.honest()?;
    behaviour.certificates.clear();
    let kds = serve(behaviour.leaf.certificate())?;
    scenario.site.fetch_endorsements(kds.port())?;
    let measurements = scenario.guest.measure(&scenario.site.cli, &scenario.boot)?;
    scenario.site.accept_image("test", &measurements)?;
    scenario.site.start()?;
    let node = scenario.node("worker-0", &behaviour)?;
    let mut machine = node.start("join")?;
    machine.console.expect("class=unavailable", PATIENCE)?;
    machine.expect_unlocked(1)?;
    ensure!(kds.requests() > 0, "nobody asked for the certificate");

    // Whoever says to be this chip, under a root of his own, is now known for what he is.
    let impostor = Chip::new(&development_root("impostor")?, Product::Milan, 1);
    let impostor = impostor.guest(behaviour.report.measurement)?;
    let forged = ["signature of the report is not by the key"];
    scenario.expect_refused("impostor", &impostor, &forged)?;
    scenario.passed()
}

/// A vTPM beside the guest is reported and trusted for nothing: its PCRs are whatever they are.
#[test]
fn a_node_with_a_vtpm_beside_it_joins_and_rejoins() -> Result<()> {
    let scenario = SnpScenario::with("vtpm", Product::Milan, "sev-snp-vtpm")?;
    let authority = TpmAuthority::create(&scenario.workspace.file("tpm-authority"))?;
    let mut node = scenario.node("worker-0", &scenario.honest()?)?;
    let tpm = Swtpm::manufacture(&scenario.workspace.file("tpm"), &authority)?;
    node.config.tpm = Some(tpm);
    node.start("join")?.expect_unlocked(1)?;
    node.start("rejoin")?.expect_unlocked(2)?;
    scenario.passed()
}

/// Azure: the report is of the paravisor, the PCRs of its vTPM are the image's and the latch counts.
/// A vTPM that the report does not vouch for gets nothing.
#[test]
fn a_node_in_a_paravisor_joins_and_rejoins() -> Result<()> {
    let mut scenario = SnpScenario::prepare("azure", Product::Milan, "azure-sev-snp")?;
    let paravisor = [0x77; 48];
    let behaviour = scenario.chip.guest(paravisor)?;
    let kds = serve(behaviour.leaf.certificate())?;
    scenario.site.fetch_endorsements(kds.port())?;
    let accelerator = qemu_tests::accelerator(&scenario.guest.image().kernel())?;
    let image = json!({
        "name": "test",
        "roles": ["worker"],
        "pcrs": direct_boot_pcrs(accelerator)?["pcrs"],
        "azure_sev_snp": {"measurements": [hex::encode(paravisor)]},
    });
    scenario.site.declare_images(&json!([image]))?;
    scenario.site.start()?;
    let authority = TpmAuthority::create(&scenario.workspace.file("tpm-authority"))?;
    let manufacture = |name: &str| Swtpm::manufacture(&scenario.workspace.file(name), &authority);

    let tpm = manufacture("tpm")?;
    vouch(&tpm, &behaviour.report, &behaviour.leaf)?;
    let mut node = scenario.node("worker-0", &behaviour)?;
    node.config.tpm = Some(tpm);
    node.start("join")?.expect_unlocked(1)?;
    node.start("rejoin")?.expect_unlocked(2)?;

    let own = Chip::new(&development_root("impostor")?, Product::Milan, 1).guest(paravisor)?;
    let other = manufacture("other-tpm")?;
    vouch(&other, &own.report, &own.leaf)?;
    node.config.tpm = Some(other);
    scenario.expect_node_refused(&node, "other-tpm", &["appraisal refused"])?;
    scenario.passed()
}

/// A server that answers every request with this certificate.
fn serve(certificate: &[u8]) -> Result<Metadata> {
    let length = certificate.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    Metadata::answer([head.as_bytes(), certificate].concat())
}
