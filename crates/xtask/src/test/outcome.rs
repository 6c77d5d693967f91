//! What came of the tiers, and the table at the end.

use anyhow::bail;
use std::time::Duration;

/// What came of one tier.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) ok: bool,
    /// How long it took; the sum of its tests where tests of several tiers ran side by side.
    pub(super) took: Duration,
}

impl Outcome {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            passed: 0,
            failed: 0,
            ok: true,
            took: Duration::ZERO,
        }
    }
}

pub(super) fn summarise(outcomes: &[Outcome]) -> anyhow::Result<()> {
    println!(
        "\n{:<26} {:>7} {:>7} {:>9}",
        "tier", "passed", "failed", "seconds"
    );
    for Outcome {
        name,
        passed,
        failed,
        ok,
        took,
    } in outcomes
    {
        let mark = if *ok { "" } else { "  FAILED" };
        println!(
            "{name:<26} {passed:>7} {failed:>7} {:>9.1}{mark}",
            took.as_secs_f64()
        );
    }
    let passed: usize = outcomes.iter().map(|outcome| outcome.passed).sum();
    let failed: usize = outcomes.iter().map(|outcome| outcome.failed).sum();
    println!("\n{passed} passed, {failed} failed");
    if outcomes.iter().any(|outcome| !outcome.ok) || failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}
