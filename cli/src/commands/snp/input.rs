//! Files about reports, as they come.

use anyhow::{Context as _, Result, bail};
use snp::{Product, Report, UnixTime, hcl::HclReport};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};
use x509::x509_cert::der::{DateTime, pem};

use crate::{files, output::WithHint as _};

/// First bytes of the blob that Azure's paravisor keeps in the vTPM.
const HCL: &[u8] = b"HCLA";

/// The bytes of a report: a file that holds it and nothing else, or Azure's blob with it inside.
pub(super) fn report_bytes(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    if !bytes.starts_with(HCL) {
        return Ok(bytes);
    }
    let hcl = HclReport::parse(&bytes)
        .with_context(|| format!("read `{}`: report of Azure's paravisor", path.display()))?;
    Ok(hcl.hardware_report().to_vec())
}

/// Parses what [`report_bytes`] read.
pub(super) fn parse_report<'a>(path: &Path, bytes: &'a [u8]) -> Result<Report<'a>> {
    Report::parse(bytes)
        .with_context(|| format!("read report `{}`", path.display()))
        .hint("give the 1184 bytes of the report alone, as the firmware signed them")
}

/// A certificate or a list, DER or PEM.
pub(super) fn der(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    if !bytes.starts_with(b"-----BEGIN ") {
        return Ok(bytes);
    }
    match pem::decode_vec(&bytes) {
        Ok((_, der)) => Ok(der),
        Err(_) => bail!("read `{}`: not one object in PEM", path.display()),
    }
}

/// The product line of a report: the one it names, or the one the operator says.
pub(super) fn product(report: &Report<'_>, said: Option<Product>) -> Result<Product> {
    match (report.product, said) {
        (Some(named), Some(said)) if named != said => {
            bail!("the report is of {named}, not of {said}")
        }
        (named, said) => named
            .or(said)
            .context("the report does not name its product line")
            .hint("give `--product`: reports of version 2 have no processor model"),
    }
}

/// Parses `Milan`, `Genoa` or `Turin`.
pub(super) fn parse_product(name: &str) -> Result<Product, &'static str> {
    Product::from_name(name).ok_or("expected `Milan`, `Genoa` or `Turin`")
}

/// Parses a moment such as `2026-01-31T00:00:00Z`.
pub(super) fn parse_time(text: &str) -> Result<UnixTime, &'static str> {
    let time: Result<DateTime, _> = text.parse();
    let time = time.map_err(|_| "expected a time such as `2026-01-31T00:00:00Z`")?;
    Ok(UnixTime(time.unix_duration().as_secs()))
}

/// What time it is.
pub(super) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(since.map_or(0, |since| since.as_secs()))
}
