//! SEV-SNP reports: signed by a key that AMD vouches for, then every rule of the policy.

use crate::{
    appraised::SnpClaims,
    appraiser::Endorsements,
    error::{AppraisalError, ErrorClass, FailedCheck, ReportError},
    policy::{ProductPolicy, SnpPolicy},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt::Display;
use snp::{
    AuthenticatedReport, CertificateTable, KeyKind, LeafError, Report, RevocationError,
    RevocationList, Tcb, UnixTime, VerifyError, layout,
};

/// A report that the right key of an accepted product line signed, and that keeps the policy. What was
/// launched, and for which channel the report is, is not known yet.
#[must_use]
pub(crate) struct AcceptedReport<'a> {
    pub(crate) report: AuthenticatedReport<'a>,
    announced: Vec<FailedCheck>,
}

impl<'a> AcceptedReport<'a> {
    /// Parses, authenticates and judges `report`; `certificates` is the host's table beside it.
    pub(crate) fn accept(
        report: &'a [u8],
        certificates: &[u8],
        policy: &SnpPolicy,
        endorsements: Endorsements<'_>,
        now: u64,
    ) -> Result<Self, AppraisalError> {
        let parsed = Report::parse(report).map_err(ReportError::Report)?;
        let table = CertificateTable::parse(certificates).map_err(ReportError::CertificateTable)?;
        let entries = policy.candidates(parsed.product);
        if entries.is_empty() {
            return Err(AppraisalError::Report(ReportError::Product {
                expected: policy.product_names(),
                got: parsed
                    .product
                    .map(|product| product.to_string())
                    .unwrap_or_default(),
            }));
        }
        let search = Search {
            report: parsed,
            table,
            policy,
            endorsements,
            now: UnixTime(now),
        };
        let (report, entry) = search.authenticate(&entries)?;
        let failed = rules(
            report.report(),
            report.tcbs().reported,
            policy,
            entry,
            search.now,
        );
        if !failed.is_empty() {
            return Err(AppraisalError::Report(ReportError::Rules(failed)));
        }
        let announced = entry
            .announced(search.now)
            .map_or_else(Vec::new, |minimum| below(report.tcbs().reported, minimum));
        Ok(Self { report, announced })
    }

    /// The report's own data must be `expected`: it was made for this channel, now.
    pub(crate) fn check_report_data(&self, expected: &[u8; 64]) -> Result<(), AppraisalError> {
        let got = self.report.report().report_data;
        if got == expected {
            return Ok(());
        }
        Err(AppraisalError::Report(ReportError::Binding {
            expected: hex::encode(expected),
            got: hex::encode(got),
        }))
    }

    pub(crate) fn into_claims(self) -> SnpClaims {
        SnpClaims {
            product: self.report.product(),
            origin: self.report.origin(),
            chip_id: self.report.chip_id(),
            reported_tcb: self.report.tcbs().reported,
            below_announced_tcb: self.announced,
        }
    }
}

/// Looks for the certificate of the key that signed.
struct Search<'a, 's> {
    report: Report<'a>,
    table: CertificateTable<'s>,
    policy: &'s SnpPolicy,
    endorsements: Endorsements<'s>,
    now: UnixTime,
}

impl<'a> Search<'a, '_> {
    /// The first entry of the policy whose authorities vouch for a certificate whose key signed this
    /// report. Certificates come from the host's table and from the verifier's own store. The host's
    /// are often of an older TCB, so that one which does not fit is not the end.
    fn authenticate<'p>(
        &self,
        entries: &[&'p ProductPolicy],
    ) -> Result<(AuthenticatedReport<'a>, &'p ProductPolicy), AppraisalError> {
        let mut refusal = None;
        for entry in entries {
            // A report that names no product line has several candidates, and what is here is for one
            // of them: that it is not for another says nothing.
            let others = |error: &ReportError| entries.len() > 1 && is_of_another_line(error);
            let revocations = match self.revocations(entry) {
                Ok(revocations) => revocations,
                Err(error) if others(&error) => continue,
                Err(error) => {
                    refusal = Some(error);
                    continue;
                }
            };
            let hosts = match entry.key {
                KeyKind::Vcek => self.table.vcek,
                KeyKind::Vlek => self.table.vlek,
            };
            for leaf in self.endorsements.leaf.into_iter().chain(hosts) {
                let own = self.endorsements.leaf == Some(leaf);
                match self.verify(entry, leaf, revocations.as_ref()) {
                    Ok(report) => return Ok((report, entry)),
                    // A chip has one key for each TCB: no other certificate of it would verify more.
                    // Providers may have VLEKs of the same TCB.
                    Err(error @ ReportError::Verify(VerifyError::Signature))
                        if entry.key == KeyKind::Vcek =>
                    {
                        return Err(error.into());
                    }
                    Err(error) if own && !others(&error) => refusal = Some(error),
                    Err(_) => {}
                }
            }
        }
        let missing = || ReportError::NoEndorsement {
            key: self.wanted_keys(entries),
        };
        let refusal = refusal.unwrap_or_else(missing);
        let hopeless = match refusal.class() {
            ErrorClass::Unavailable => self.hopeless(entries),
            _ => None,
        };
        Err(hopeless.unwrap_or(refusal).into())
    }

    /// Why no certificate could make this report acceptable; nobody should wait for one then. What an
    /// unauthenticated report says against itself refuses only the peer that sent it.
    fn hopeless(&self, entries: &[&ProductPolicy]) -> Option<ReportError> {
        let fault =
            |entry: &&ProductPolicy| could_pass(&self.report, self.policy, entry, self.now).err();
        let mut reasons = entries.iter().map(fault);
        let first = reasons.next()??;
        reasons.all(|reason| reason.is_some()).then_some(first)
    }

    fn verify(
        &self,
        entry: &ProductPolicy,
        leaf: &[u8],
        revocations: Option<&RevocationList>,
    ) -> Result<AuthenticatedReport<'a>, ReportError> {
        let leaf = entry
            .authorities
            .authenticate_leaf(entry.key, leaf, revocations, self.now)
            .map_err(ReportError::Leaf)?;
        leaf.verify(self.report).map_err(ReportError::Verify)
    }

    /// The verifier's own list, else the host's: one that is out of date refuses. Where the policy
    /// wants a list, only the verifier's will do: a host whose authority was revoked would give the list
    /// from before, which is in force for a year.
    fn revocations(&self, entry: &ProductPolicy) -> Result<Option<RevocationList>, ReportError> {
        let required = self.policy.require_revocation_list;
        let hosts = self.table.crl.filter(|_| !required);
        let Some(der) = self.endorsements.revocations.or(hosts) else {
            let missing = ReportError::NoRevocationList(entry.product());
            return if required { Err(missing) } else { Ok(None) };
        };
        RevocationList::authenticate(der, &entry.authorities, self.now)
            .map(Some)
            .map_err(ReportError::Revocations)
    }

    fn wanted_keys(&self, entries: &[&ProductPolicy]) -> String {
        let of = |entry: &&ProductPolicy| {
            let tcb = self.report.reported_tcb.decode(entry.product());
            let tcb = tcb.map(|tcb| tcb.to_string()).unwrap_or_default();
            format!("{} {:?} at {tcb}", entry.product(), entry.key)
        };
        let keys: Vec<String> = entries.iter().map(of).collect();
        keys.join(" or ")
    }
}

/// Whether a certificate or a list is of another product line than the one it was tried for.
const fn is_of_another_line(error: &ReportError) -> bool {
    matches!(
        error,
        ReportError::Leaf(LeafError::Product { .. })
            | ReportError::Revocations(RevocationError::Untrusted(_))
    )
}

/// Whether some certificate could make this report acceptable to an entry of the policy.
///
/// # Errors
/// What refuses the report, whoever signed it.
pub(crate) fn could_pass(
    report: &Report<'_>,
    policy: &SnpPolicy,
    entry: &ProductPolicy,
    now: UnixTime,
) -> Result<(), ReportError> {
    let got = report
        .signing_key
        .ok_or(ReportError::Verify(VerifyError::Unsigned))?;
    if got != entry.key {
        let expected = entry.key;
        return Err(ReportError::Verify(VerifyError::KeyKind { expected, got }));
    }
    let mut failed = Vec::new();
    if entry.key == KeyKind::Vcek && report.chip_id.is_masked() {
        failed.push(FailedCheck {
            check: String::from("CHIP_ID"),
            expected: String::from("the chip whose key signed"),
            got: String::from("masked"),
        });
    }
    let reported = report.reported_tcb.decode(entry.product());
    let reported = reported.map_err(|source| {
        let offset = layout::REPORTED_TCB;
        ReportError::Report(snp::ReportError::Tcb { offset, source })
    })?;
    failed.extend(rules(report, reported, policy, entry, now));
    if failed.is_empty() {
        return Ok(());
    }
    Err(ReportError::Rules(failed))
}

/// Every rule that is broken; the first alone would have an operator mend one at a time. The report
/// need not be authenticated: whether to look for its certificate is asked before.
fn rules(
    fields: &Report<'_>,
    reported: Tcb,
    policy: &SnpPolicy,
    entry: &ProductPolicy,
    now: UnixTime,
) -> Vec<FailedCheck> {
    let mut failed = Vec::new();
    let mut want = |holds: bool, check: &str, expected: &dyn Display, got: &dyn Display| {
        if !holds {
            failed.push(FailedCheck::new(check, expected, got));
        }
    };
    let (guest, platform) = (fields.policy, fields.platform_info);
    want(
        fields.vmpl == policy.vmpl,
        "VMPL",
        &policy.vmpl,
        &fields.vmpl,
    );
    want(
        !guest.allows_debug(),
        "guest policy: debug",
        &"forbidden",
        &"allowed",
    );
    let migration = guest.allows_migration_agent();
    want(
        !migration,
        "guest policy: migration agent",
        &"forbidden",
        &"allowed",
    );
    let smt = policy.allow_smt || !guest.allows_smt();
    want(smt, "guest policy: SMT", &"forbidden", &"allowed");
    let smt = policy.allow_smt || !platform.smt_enabled();
    want(smt, "platform: SMT", &"disabled", &"enabled");
    let socket = !policy.require_single_socket || guest.requires_single_socket();
    want(
        socket,
        "guest policy: single socket",
        &"required",
        &"not required",
    );
    let ((major, minor), (wants_major, wants_minor)) = (guest.abi(), policy.minimum_abi);
    want(
        guest.abi() >= policy.minimum_abi,
        "guest policy: ABI version",
        &format!("{wants_major}.{wants_minor} or later"),
        &format!("{major}.{minor}"),
    );
    let aliases = !policy.require_alias_check || platform.alias_check_complete();
    want(aliases, "platform: ALIAS_CHECK_COMPLETE", &1, &0);
    if let Some(chips) = &policy.chips {
        let chip = Some(fields.chip_id).filter(|chip| !chip.is_masked());
        let listed = chip.is_some_and(|chip| chips.contains(&chip));
        let got = chip.map_or_else(|| "masked".to_string(), |chip| hex::encode(chip.0));
        want(listed, "CHIP_ID", &"one of the policy's chips", &got);
    }
    failed.extend(below(reported, entry.minimum(now)));
    failed
}

/// The components of `reported` that are below `minimum`, each a failed check.
fn below(reported: Tcb, minimum: Tcb) -> Vec<FailedCheck> {
    minimum
        .components()
        .filter_map(|(component, expected)| {
            let got = reported.get(component).unwrap_or_default();
            (got < expected).then(|| FailedCheck {
                check: format!("reported TCB: {component}"),
                expected: format!("{expected} or later"),
                got: got.to_string(),
            })
        })
        .collect()
}
