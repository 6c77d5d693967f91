//! Root of a booted node asks for a key once more: the latch, shown in a whole machine.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::{GUEST_JOIN_SERVICE, Scenario};

/// `TPM_RC_LOCALITY`: not from where an operating system is (Part 2, section 6.6.2).
const NOT_FROM_HERE: &str = "code=0x907";

/// Three conversations with an emulated TPM, under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The join service has answered; it only has to write.
const LOG: Duration = Duration::from_secs(10);

#[test]
fn a_second_key_request_after_the_latch_is_refused() -> Result<()> {
    let scenario = Scenario::direct("second-request")?;
    let mut node = scenario.node("worker-0")?;
    node.run_in_root(&scenario.image.second_request(), GUEST_JOIN_SERVICE)?;

    let mut machine = node.start("join")?;
    machine.expect_step("switch-root")?;
    let position = scenario.site.join_service.log_position();
    let reset = machine.console.expect("second-request: reset ", PATIENCE)?;
    ensure!(
        reset.text.ends_with(NOT_FROM_HERE),
        "PCR 15: {}",
        reset.text
    );
    for path in ["rejoin", "join"] {
        let begin = format!("second-request: {path} ");
        let answer = machine.console.expect(&begin, PATIENCE)?.text;
        let refused = format!("{begin}refused by the owner: refused");
        ensure!(answer == refused, "the {path} ended in: {answer}");
    }
    machine.console.expect("root: test exit=0", PATIENCE)?;
    machine.console.expect("root: status=ok", PATIENCE)?;
    machine.wait_off(PATIENCE)?;
    let service = &scenario.site.join_service;
    service.expect_log(position, &["check failed", "PCR 15"], LOG)?;
    let (log, _) = scenario.site.audit_log("key-service");
    let log = fs::read_to_string(log)?;
    let releases = log.matches(r#""action":"release""#).count();
    ensure!(releases == 1, "{releases} releases:\n{log}");

    // A power cycle is another boot: the latch is gone, and the node gets its key.
    node.start("rejoin")?.expect_step("latch")?;
    scenario.passed()
}
