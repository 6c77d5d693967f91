//! Scenarios about SEV-SNP: the released agent on a guest interface that a test provides.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{Chip, SnpGuest, Workspace, agent_of, development_root};
use snp_device::Answer;
use software_snp::Product;

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
        (&[Answer::firmware(0x16)], "firmware error 0x16"),
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
            .is_some_and(|error| error.contains("ioctl")),
        "{last:?}"
    );
    Ok(())
}

/// The initial RAM disk of these tests holds the agent that is released.
#[test]
fn the_agent_is_the_released_one() -> Result<()> {
    let guest = SnpGuest::prepare(&Workspace::create("snp-agent")?)?;
    let released = qemu_tests::Image::of("release")?;
    ensure!(guest.agent_digest()? == agent_of(&released)?);
    Ok(())
}
