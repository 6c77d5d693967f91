//! `constellation snp`: SEV-SNP reports and the certificates of the keys that sign them.

use anyhow::Result;
use clap::Subcommand;

mod certificates;
mod input;
mod show;
mod verify;
mod view;

use crate::output::OutputFormat;

/// Read, judge and endorse SEV-SNP reports.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Explain a report, field by field
    Show(show::Show),
    /// Appraise a report offline, by policy and reference values
    Verify(verify::Verify),
    /// Fetch the certificates of reports' keys from AMD into a bundle
    FetchCerts(certificates::FetchCerts),
    /// Verify certificates and keep them in a join service's folder
    ImportCerts(certificates::ImportCerts),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::Show(show) => output.print(&show.run()?),
            Self::Verify(verify) => output.print(&verify.run()?),
            Self::FetchCerts(fetch) => output.print(&fetch.run()?),
            Self::ImportCerts(import) => output.print(&import.run()?),
        }
    }
}
