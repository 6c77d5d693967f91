//! `constellation policy`: what a verifier accepts.

use anyhow::{Context as _, Result, bail};
use appraisal::{
    AttesterIdentity, Policy, REQUIRED_PCRS,
    document::{AuthorityDocument, Kind, PolicyDocument, TpmDocument, VERSION},
};
use clap::{Args, Subcommand};
use evidence::EvidenceKind;
use owner::DocumentKind;
use serde::Serialize;
use std::{fmt, path::PathBuf};

use crate::{
    documents::{self, Sign},
    files,
    output::OutputFormat,
};

/// Say which evidence is accepted.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a policy for TPM evidence
    New(New),
    /// Check a policy and sign it with the owner key
    Sign(Sign),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::New(new) => output.print(&new.run()?),
            Self::Sign(sign) => output.print(&sign.run(DocumentKind::Policy, |text| {
                Ok(Policy::parse(text.as_bytes())?.serial())
            })?),
        }
    }
}

/// Make a policy for TPM evidence.
#[derive(Args, Debug)]
pub(crate) struct New {
    /// The policy, which must not exist yet
    file: PathBuf,
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

impl New {
    fn run(self) -> Result<NewPolicy> {
        if self.bound_ek_ca.is_empty() && self.ek_hash.is_empty() {
            bail!("no endorsement key would be trusted: give `--bound-ek-ca` or `--ek-hash`");
        }
        let authority = |path: &PathBuf| -> Result<_> {
            Ok(AuthorityDocument {
                certificate: files::read_text(path)?,
                bound_to_platform: true,
            })
        };
        let authorities = self
            .bound_ek_ca
            .iter()
            .map(authority)
            .collect::<Result<Vec<_>>>()?;
        let intermediates = self
            .ek_intermediate
            .iter()
            .map(|path| files::read_text(path))
            .collect::<Result<Vec<_>>>()?;
        let document = PolicyDocument {
            version: VERSION,
            serial: 1,
            evidence: vec![Kind(EvidenceKind::Tpm)],
            tpm: Some(TpmDocument {
                pcrs: REQUIRED_PCRS.to_vec(),
                ek_authorities: some_unless_empty(authorities),
                ek_intermediates: some_unless_empty(intermediates),
                ek_hashes: some_unless_empty(self.ek_hash),
            }),
            sev_snp: None,
            azure_sev_snp: None,
            sev_snp_vtpm: None,
        };
        Policy::parse(&serde_json::to_vec(&document)?).context("the policy would not load")?;
        documents::create(&self.file, &document)?;
        Ok(NewPolicy { policy: self.file })
    }
}

fn some_unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[derive(Serialize)]
struct NewPolicy {
    policy: PathBuf,
}

impl fmt::Display for NewPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.policy.display();
        writeln!(
            f,
            "Policy `{policy}`, serial 1; raise the serial with each change"
        )?;
        write!(f, "Next: `constellation policy sign {policy}`")
    }
}
