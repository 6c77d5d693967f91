//! The PCR values of an image's boot.

use anyhow::{Context as _, Result, bail};
use appraisal::document::{ByPcr, EventDocument, PcrValue};
use evidence::EvidenceKind;
use measure::{
    predict::{PredictError, UkiPcrs},
    uki::Uki,
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};
use tpm::{EventLog, ExpectedEvent};

use super::{Measurements, check_kind};
use crate::{files, output::WithHint as _};

/// PCRs that the firmware fills before it starts any image: a false firmware can write every
/// later one, so these are listed as well.
const FIRMWARE_PCRS: [u32; 4] = [0, 2, 3, 7];

type Events = ByPcr<Vec<EventDocument>>;
type Values = BTreeMap<u32, Vec<PcrValue>>;

/// Predicts the PCRs of an image, and takes the firmware's from event logs.
pub(super) fn measure(uki: &[u8], event_logs: &[PathBuf]) -> Result<Measurements> {
    let (pcrs, events) =
        predict(uki).hint("give a unified kernel image (UKI), as built by `make image`")?;
    check_kind(Uki::parse(uki)?.cmdline(), EvidenceKind::has_latch)?;
    let mut values = Values::new();
    for (index, register) in [
        (4, pcrs.pcr4),
        (9, pcrs.pcr9),
        (11, pcrs.pcr11),
        (12, pcrs.pcr12),
        (13, pcrs.pcr13),
        (15, pcrs.pcr15),
    ] {
        add(&mut values, index, *register.value());
    }
    for path in event_logs {
        for (index, value) in firmware_pcrs(path)? {
            add(&mut values, index, value);
        }
    }
    Ok(Measurements {
        pcrs: Some(ByPcr(values)),
        events: Some(events),
        ..Measurements::default()
    })
}

/// Writes the values, and which of the firmware's are missing.
pub(super) fn display(values: &Values, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, values) in values {
        for value in values {
            writeln!(f, "PCR {index:>2}  {value}")?;
        }
    }
    let missing: Vec<_> = FIRMWARE_PCRS
        .iter()
        .filter(|index| !values.contains_key(index))
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

fn add(values: &mut Values, index: u32, value: [u8; 32]) {
    let values = values.entry(index).or_default();
    if !values.contains(&PcrValue(value)) {
        values.push(PcrValue(value));
    }
}
