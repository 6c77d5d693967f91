//! What a ticket costs a bare SEV-SNP guest, beside one for a TPM in the same run.

use crate::{
    admission::{ROUNDS, TURN, of, peers, tickets},
    installation::{self, Installation},
    machine::{self, Maker, PRODUCT},
    report::Report,
};
use anyhow::Result;
use endorsements::{AuthoritySet, Bundle, Store};
use software_snp::DevelopmentRoot;
use std::{fs::File, io::Write as _, path::Path};

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let guests = Installation::start("bench-tickets-snp", trust_guests)?;
    let tpms = Installation::start("bench-tickets-beside", installation::trust_tpms)?;
    // Connections, code and allocators warm up unmeasured.
    for installation in [&guests, &tpms] {
        tickets(installation, &peers(installation), TURN / 5)?;
    }
    let (mut to_guests, mut to_tpms) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        to_guests.push(tickets(&guests, &peers(&guests), TURN)?);
        to_tpms.push(tickets(&tpms, &peers(&tpms), TURN)?);
    }
    let cpu = of(&to_guests, |round| round.cpu_us)?;
    let rate = of(&to_guests, |round| round.per_second)?;
    let note = "the load generator on the same processors";
    report.figure("tickets_per_s_snp", rate, note);
    let note = "join service, per ticket";
    report.figure("ticket_snp_cpu_us", cpu, note);
    let over = cpu / of(&to_tpms, |round| round.cpu_us)?;
    let note = "join service, rounds by turns";
    report.figure("ticket_snp_cpu_over_tpm", over, note);
    let over = rate / of(&to_tpms, |round| round.per_second)?;
    report.figure("tickets_per_s_snp_over_tpm", over, "rounds by turns");
    guests.stop()?;
    tpms.stop()
}

/// Signs a policy for chips of a development root, and reference values of what the guests launched.
/// Each appraisal needs the revocation list, which is kept where fetched ones are.
fn trust_guests(site: &qemu_tests::Site) -> Result<Maker> {
    let root = qemu_tests::development_root("bench")?;
    let mut policy = qemu_tests::policy("sev-snp", &machine::chip(&root, 0))?;
    policy["sev_snp"]["revocation_lists"] = "required".into();
    site.declare_policy(&policy)?;
    let folder = site.dir().join("endorsements");
    keep_list(&root, &folder)?;
    let config = site.dir().join("join-service.toml");
    let mut config = File::options().append(true).open(config)?;
    write!(config, "\n[endorsements]\nfolder = {folder:?}\n")?;
    site.accept_image("bench", &machine::measurements())?;
    Ok(Maker::SevSnp(root))
}

fn keep_list(root: &DevelopmentRoot, folder: &Path) -> Result<()> {
    let authorities = AuthoritySet::new(vec![root.authorities(PRODUCT)?]);
    let store = Store::open(folder, 1, authorities)?;
    let list = (PRODUCT.into(), machine::revocation_list(root)?);
    Bundle::new(Vec::new(), vec![list]).import(&store, machine::now()?)?;
    Ok(())
}
