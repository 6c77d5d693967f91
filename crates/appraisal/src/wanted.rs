//! What a verifier looks for before it appraises a report.

use crate::{appraiser::Appraiser, report::could_pass};
use alloc::vec::Vec;
use evidence::Evidence;
use snp::{Authorities, CertificateTable, KeyKind, Report, UnixTime, hcl::HclReport};

/// A report whose key's certificate is to be found. Nobody vouches for the report yet: all of it may
/// be made up, and then no such certificate exists.
#[derive(Clone, Debug)]
pub struct Wanted<'p, 'e> {
    /// The report.
    pub report: Report<'e>,
    /// Whose certificates could vouch for it; several only for a report that names no product line.
    pub authorities: Vec<&'p Authorities>,
    /// The certificate of such a key in the host's table, as it came. It may be of another TCB.
    pub in_table: Option<&'e [u8]>,
}

impl Appraiser {
    /// The certificate to look for before `evidence` is appraised. `None` where it would be for
    /// nothing: there is no report, it does not parse, or it breaks a rule of the policy whoever signed
    /// it. So nobody makes a verifier fetch certificates for a TCB or a chip that it refuses anyway.
    #[must_use]
    pub fn wanted<'e>(&self, evidence: &'e Evidence, now: u64) -> Option<Wanted<'_, 'e>> {
        let (report, table) = report_and_table(evidence)?;
        let report = Report::parse(report).ok()?;
        let table = CertificateTable::parse(table).ok()?;
        let policy = self.policy().sev_snp.as_ref()?;
        let entries = policy.candidates(report.product).into_iter();
        let authorities: Vec<_> = entries
            .filter(|entry| could_pass(&report, policy, entry, UnixTime(now)).is_ok())
            .map(|entry| &entry.authorities)
            .collect();
        let in_table = match report.signing_key? {
            KeyKind::Vcek => table.vcek,
            KeyKind::Vlek => table.vlek,
        };
        (!authorities.is_empty()).then_some(Wanted {
            report,
            authorities,
            in_table,
        })
    }
}

fn report_and_table(evidence: &Evidence) -> Option<(&[u8], &[u8])> {
    match evidence {
        Evidence::AzureSevSnp(azure) => {
            let hcl = HclReport::parse(&azure.hcl_report).ok()?;
            Some((hcl.hardware_report(), &[]))
        }
        Evidence::SevSnp(snp) => Some((&snp.report, &snp.certificates)),
        Evidence::SevSnpVtpm(both) => Some((&both.snp.report, &both.snp.certificates)),
        Evidence::Tpm(_) => None,
    }
}
