//! `constellation snp show`: a report as an engineer reads it.

use clap::Args;
use snp::{AuthenticatedReport, Authorities, KeyKind, Product, Report, UnixTime};
use std::{error::Error, path::PathBuf};

use super::{
    input,
    view::{ReportView, SignatureView},
};

/// Explain a report, field by field.
///
/// Nothing is judged: `snp verify` does that. Without `--certificate` nobody vouches for what is
/// shown.
#[derive(Args, Debug)]
pub(crate) struct Show {
    /// The report: its 1184 bytes, or Azure's blob from the vTPM's NV index 0x01400001
    report: PathBuf,
    /// Certificate of the key that signed it, DER or PEM: check the signature by AMD's roots
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Product line, of a report of version 2, which does not say
    #[arg(long, value_name = "PRODUCT", value_parser = input::parse_product)]
    product: Option<Product>,
    /// Check the certificate as of this moment, such as `2026-01-31T00:00:00Z`; now, if it is not
    /// given
    #[arg(long, value_name = "TIME", value_parser = input::parse_time, requires = "certificate")]
    at: Option<UnixTime>,
}

impl Show {
    pub(super) fn run(self) -> anyhow::Result<ReportView> {
        let bytes = input::report_bytes(&self.report)?;
        let report = input::parse_report(&self.report, &bytes)?;
        if self.product.is_some() {
            input::product(&report, self.product)?;
        }
        let signature = match &self.certificate {
            Some(path) => {
                let now = self.at.unwrap_or_else(input::now);
                check(&report, &input::der(path)?, self.product, now)
            }
            None => SignatureView::not_checked(),
        };
        Ok(ReportView::of(&report, self.product, signature))
    }
}

/// Whether a key signed the report that AMD vouches for at `now`.
fn check(
    report: &Report<'_>,
    der: &[u8],
    product: Option<Product>,
    now: UnixTime,
) -> SignatureView {
    let Some(kind) = report.signing_key else {
        return SignatureView::invalid("the report is not signed");
    };
    let products = match report.product.or(product) {
        Some(product) => vec![product],
        None => Product::ALL.to_vec(),
    };
    let mut refused = String::new();
    for product in products {
        match verify(report, kind, der, (product, now)) {
            Ok(report) => {
                return SignatureView::valid(report.signing_key(), report.product());
            }
            Err(error) => refused = causes(&*error),
        }
    }
    SignatureView::invalid(&refused)
}

fn verify<'r>(
    report: &Report<'r>,
    kind: KeyKind,
    der: &[u8],
    (product, now): (Product, UnixTime),
) -> Result<AuthenticatedReport<'r>, Box<dyn Error>> {
    let authorities = Authorities::amd(product)?;
    let leaf = authorities.authenticate_leaf(kind, der, None, now)?;
    Ok(leaf.verify(*report)?)
}

/// An error and what caused it, on one line.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
