//! `constellation policy`: what a verifier accepts.

mod sev_snp;

use anyhow::{Context as _, Result, bail};
use appraisal::{
    AttesterIdentity, Policy, REQUIRED_PCRS,
    document::{AuthorityDocument, Kind, PolicyDocument, QuoteDocument, TpmDocument, VERSION},
};
use clap::{Args, Subcommand};
use evidence::EvidenceKind;
use owner::DocumentKind;
use serde::Serialize;
use sev_snp::SnpRules;
use std::{fmt, path::PathBuf};

use super::upgrade::InCluster;
use crate::{
    documents::{self, Sign},
    files,
    output::OutputFormat,
};

/// Say which evidence is accepted.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a policy
    ///
    /// Each kind of evidence needs its rules: `tpm` those for TPMs, every other kind those for SEV-SNP
    /// reports. What is not said is refused, and no option turns off a check that a node must pass
    New(Box<New>),
    /// Check a policy and sign it with the owner key
    Sign(Sign),
    /// Show the policy that a cluster holds
    Show(InCluster),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::New(new) => output.print(&new.run()?),
            Self::Sign(sign) => output.print(&sign.run(DocumentKind::Policy, |text| {
                Ok(Policy::parse(text.as_bytes())?.serial())
            })?),
            Self::Show(held) => {
                let text = held.read(DocumentKind::Policy)?;
                output.print(&Shown::of(
                    &text.context("give `--kubeconfig` and `--owner`")?,
                )?)
            }
        }
    }
}

/// Make a policy.
#[derive(Args, Debug)]
pub(crate) struct New {
    /// The policy, which must not exist yet
    file: PathBuf,
    /// Kind of evidence to accept, as on the images' command line: `tpm`; `sev-snp`; `azure-sev-snp`, in
    /// Azure's paravisor; `sev-snp-vtpm`, with a vTPM of the host beside the guest, whose PCRs are shown
    /// and decide nothing. May be repeated
    #[arg(long, value_name = "KIND", default_value = "tpm")]
    evidence: Vec<EvidenceKind>,
    #[command(flatten)]
    tpm: TpmRules,
    #[command(flatten)]
    sev_snp: SnpRules,
}

impl New {
    fn run(self) -> Result<NewPolicy> {
        let accepts = |kind| self.evidence.contains(&kind);
        let tpm = accepts(EvidenceKind::Tpm);
        if !tpm && self.tpm.is_given() {
            bail!("rules for TPMs, but no `--evidence tpm` reads them");
        }
        let reports = self.evidence.iter().any(|kind| kind.has_report());
        if !reports && self.sev_snp.is_given() {
            bail!("rules for SEV-SNP reports, but no `--evidence` with a report reads them");
        }
        let quote = |kind| {
            accepts(kind).then(|| QuoteDocument {
                pcrs: REQUIRED_PCRS.to_vec(),
            })
        };
        let document = PolicyDocument {
            version: VERSION,
            serial: 1,
            azure_sev_snp: quote(EvidenceKind::AzureSevSnp),
            sev_snp_vtpm: quote(EvidenceKind::SevSnpVtpm),
            evidence: self.evidence.iter().copied().map(Kind).collect(),
            tpm: tpm.then(|| self.tpm.into_document()).transpose()?,
            sev_snp: reports.then(|| self.sev_snp.into_document()).transpose()?,
        };
        let policy = Policy::parse(&serde_json::to_vec(&document)?);
        let policy = policy.context("the policy would not load")?;
        documents::create(&self.file, &document)?;
        let roots = policy.development_roots();
        Ok(NewPolicy {
            policy: self.file,
            development_roots: roots.iter().map(ToString::to_string).collect(),
        })
    }
}

/// What counts for kind `tpm`.
#[derive(Args, Debug)]
#[command(next_help_heading = "TPMs")]
struct TpmRules {
    /// CA that certifies the endorsement keys of your platform only, such as your own vTPM CA; may
    /// be repeated. A TPM manufacturer's root is no such CA: the host can buy that manufacturer's TPM
    #[arg(long, value_name = "PEM")]
    bound_ek_ca: Vec<PathBuf>,
    /// Certificate between such a CA and the endorsement keys; may be repeated
    #[arg(long, value_name = "PEM")]
    ek_intermediate: Vec<PathBuf>,
    /// Attester identity of one machine, as in a refusal's log line; may be repeated
    #[arg(long, value_name = "HEX")]
    ek_hash: Vec<AttesterIdentity>,
}

impl TpmRules {
    /// Whether any rule was given.
    fn is_given(&self) -> bool {
        !(self.bound_ek_ca.is_empty() && self.ek_intermediate.is_empty() && self.ek_hash.is_empty())
    }

    fn into_document(self) -> Result<TpmDocument> {
        if self.bound_ek_ca.is_empty() && self.ek_hash.is_empty() {
            bail!("no endorsement key would be trusted: give `--bound-ek-ca` or `--ek-hash`");
        }
        let authority = |path: &PathBuf| -> Result<_> {
            Ok(AuthorityDocument {
                certificate: files::read_text(path)?,
                bound_to_platform: true,
            })
        };
        let authorities = self.bound_ek_ca.iter().map(authority);
        let intermediates = self
            .ek_intermediate
            .iter()
            .map(|path| files::read_text(path));
        Ok(TpmDocument {
            pcrs: REQUIRED_PCRS.to_vec(),
            ek_authorities: some_unless_empty(authorities.collect::<Result<_>>()?),
            ek_intermediates: some_unless_empty(intermediates.collect::<Result<_>>()?),
            ek_hashes: some_unless_empty(self.ek_hash),
        })
    }
}

fn some_unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A policy, for people as it was signed.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown {
    policy: PolicyDocument,
}

impl Shown {
    fn of(text: &str) -> Result<Self> {
        let policy = serde_json::from_str(text).context("policy")?;
        Ok(Self { policy })
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(&self.policy).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

#[derive(Serialize)]
struct NewPolicy {
    policy: PathBuf,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    development_roots: Vec<String>,
}

impl fmt::Display for NewPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.policy.display();
        writeln!(
            f,
            "Policy `{policy}`, serial 1; raise the serial with each change"
        )?;
        for product in &self.development_roots {
            writeln!(
                f,
                "{product} by a development root: its reports prove nothing about a processor"
            )?;
        }
        write!(f, "Next: `constellation policy sign {policy}`")
    }
}
