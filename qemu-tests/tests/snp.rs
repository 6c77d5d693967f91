//! Scenarios about SEV-SNP: the released agent on a guest interface that a test provides.

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{Chip, SnpGuest, Workspace, development_root};
use snp_device::Answer;
use software_snp::Product;

/// The agent's own evidence, as the device gave it.
#[test]
fn reports_and_certificates_arrive_as_they_are() -> Result<()> {
    let workspace = Workspace::create("snp-collect")?;
    let guest = SnpGuest::prepare(&workspace)?;
    let chip = Chip::new(&development_root("own")?, Product::Milan, 1);
    let behaviour = chip.guest([0x5a; 48])?;
    let attempts = guest.collect("honest", &behaviour, 2)?;
    for attempt in attempts {
        ensure!(attempt.error.is_none(), "{attempt:?}");
        ensure!(attempt.report.len() == 1184, "{}", attempt.report.len());
        ensure!(attempt.certificates == behaviour.certificates);
        let report_data = attempt.report.get(0x50..0x90);
        ensure!(report_data == Some(attempt.binding.as_slice()));
    }
    Ok(())
}
