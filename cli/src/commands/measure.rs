//! `constellation measure`: what a boot of an image leaves in the PCRs.

use anyhow::{Context as _, Result, bail};
use appraisal::document::{ByPcr, EventDocument, PcrValue};
use clap::Args;
use measure::predict::{PredictError, UkiPcrs};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};
use tpm::{EventLog, ExpectedEvent};

use crate::{
    files,
    output::{OutputFormat, WithHint as _},
};

/// PCRs that the firmware fills before it starts any image: a false firmware can write every
/// later one, so these are listed as well.
const FIRMWARE_PCRS: [u32; 4] = [0, 2, 3, 7];

/// Compute the PCR values of an image's boot.
///
/// PCR 4, 9, 11, 12, 13 and 15 follow from the unified kernel image. PCR 0, 2, 3 and 7 are the
/// firmware's: give the TCG event log of one boot on that firmware that you trust.
#[derive(Args, Debug)]
pub(crate) struct Measure {
    /// The unified kernel image
    uki: PathBuf,
    /// TCG event log of a trusted boot on the same firmware, as in
    /// `/sys/kernel/security/tpm0/binary_bios_measurements`; may be repeated
    #[arg(long, value_name = "FILE")]
    event_log: Vec<PathBuf>,
}

impl Measure {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        let uki = files::read(&self.uki)?;
        let (pcrs, events) = predict(&uki)
            .with_context(|| format!("measure `{}`", self.uki.display()))
            .hint("give a unified kernel image (UKI), as built by `make image`")?;
        let mut values = Measurements {
            pcrs: ByPcr(BTreeMap::new()),
            events: Some(events),
        };
        for (index, register) in [
            (4, pcrs.pcr4),
            (9, pcrs.pcr9),
            (11, pcrs.pcr11),
            (12, pcrs.pcr12),
            (13, pcrs.pcr13),
            (15, pcrs.pcr15),
        ] {
            values.add(index, *register.value());
        }
        for path in &self.event_log {
            for (index, value) in firmware_pcrs(path)? {
                values.add(index, value);
            }
        }
        output.print(&values)
    }
}

type Events = ByPcr<Vec<EventDocument>>;

fn predict(uki: &[u8]) -> Result<(UkiPcrs, Events), PredictError> {
    let document = |event: ExpectedEvent| EventDocument {
        name: event.name,
        digest: PcrValue(event.digest),
    };
    let events = measure::predict::events(uki)?.into_iter();
    let events = events.map(|(pcr, events)| (pcr, events.into_iter().map(document).collect()));
    Ok((measure::predict::predict(uki)?, ByPcr(events.collect())))
}

fn firmware_pcrs(path: &Path) -> Result<Vec<(u32, [u8; 32])>> {
    let log = EventLog::parse(&files::read(path)?)
        .with_context(|| format!("read event log `{}`", path.display()))?;
    let replayed = log.replay();
    FIRMWARE_PCRS
        .iter()
        .map(|index| match replayed.get(index) {
            Some(value) => Ok((*index, *value)),
            None => bail!(
                "event log `{}` has no event for PCR {index}",
                path.display()
            ),
        })
        .collect()
}

/// PCR index to the values it may have, and to the events that lead there; what
/// `reference-values add` reads.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measurements {
    pub(crate) pcrs: ByPcr<Vec<PcrValue>>,
    /// Absent in values that somebody read from a TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<Events>,
}

impl Measurements {
    fn add(&mut self, index: u32, value: [u8; 32]) {
        let values = self.pcrs.0.entry(index).or_default();
        if !values.contains(&PcrValue(value)) {
            values.push(PcrValue(value));
        }
    }
}

impl fmt::Display for Measurements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, values) in &self.pcrs.0 {
            for value in values {
                writeln!(f, "PCR {index:>2}  {value}")?;
            }
        }
        let missing: Vec<_> = FIRMWARE_PCRS
            .iter()
            .filter(|index| !self.pcrs.0.contains_key(index))
            .map(u32::to_string)
            .collect();
        if !missing.is_empty() {
            write!(
                f,
                "Firmware PCRs {} are not listed: give `--event-log`",
                missing.join(", ")
            )?;
        }
        Ok(())
    }
}
