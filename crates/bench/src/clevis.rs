//! Clevis.

use crate::report::Report;
use anyhow::Result;
use std::path::Path;

pub(crate) fn measure(_system: &Path, _report: &mut Report) -> Result<()> {
    Ok(())
}
