//! Boots that only collect evidence, with the agent's own code.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use snp_device::Behaviour;

use super::SnpGuest;
use crate::console::Line;

/// A whole boot; an attempt that stalls takes the agent's limit.
const BOOT: Duration = Duration::from_secs(180);

/// Powering off after the last line.
const POWER_OFF: Duration = Duration::from_secs(30);

const PREFIX: &str = "snp-collect: ";

/// What one attempt came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// What the report was asked to be about.
    pub binding: Vec<u8>,
    /// The report, if there is one.
    pub report: Vec<u8>,
    /// The certificate table without the zeros after it.
    pub certificates: Vec<u8>,
    /// The chain of errors, if not.
    pub error: Option<String>,
    /// How long it took in the guest.
    pub took: Duration,
}

/// All attempts of one boot.
pub type Collection = Vec<Collected>;

impl SnpGuest {
    /// Boots, collects `attempts` times and powers off.
    pub fn collect(&self, name: &str, behaviour: &Behaviour, attempts: u32) -> Result<Collection> {
        let words = format!("snp-device.run=/snp-collect snp-collect={attempts}");
        let boot = self.boot("sev-snp", &words)?;
        let mut machine = self.machine(boot, behaviour)?.start(name)?;
        machine.console.expect("snp-collect: end", BOOT)?;
        machine.wait_off(POWER_OFF)?;
        let collection = parse(&machine.console.lines())?;
        let log = machine.console.log().display();
        ensure!(
            collection.len() == usize::try_from(attempts)?,
            "{} of {attempts} attempts; console log: {log}",
            collection.len()
        );
        Ok(collection)
    }
}

/// Reads `snp-collect: <attempt> <what> <value>`.
fn parse(lines: &[Line]) -> Result<Collection> {
    let mut attempts: BTreeMap<u32, Collected> = BTreeMap::new();
    for line in lines {
        let Some(text) = line.text.strip_prefix(PREFIX) else {
            continue;
        };
        let mut words = text.splitn(3, ' ');
        let Some(Ok(attempt)) = words.next().map(str::parse) else {
            continue;
        };
        let (what, value) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let attempt = attempts.entry(attempt).or_default();
        match what.strip_prefix("ms=") {
            Some(milliseconds) => {
                attempt.took = Duration::from_millis(milliseconds.parse()?);
                attempt.error = value.strip_prefix("error ").map(str::to_owned);
            }
            None => {
                let bytes = hex::decode(value).map_err(anyhow::Error::msg)?;
                match what {
                    "binding" => attempt.binding.extend(bytes),
                    "certificates" => attempt.certificates.extend(bytes),
                    _ => attempt.report.extend(bytes),
                }
            }
        }
    }
    Ok(attempts.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_read_from_their_lines() {
        let line = |text: &str| Line {
            at: Duration::ZERO,
            text: text.to_owned(),
        };
        let lines = [
            "snp-collect: 0 binding 01",
            "snp-collect: 0 report 02",
            "noise",
            "snp-collect: 0 report 03",
            "snp-collect: 0 certificates ",
            "snp-collect: 0 ms=7 ok",
            "snp-collect: 1 ms=15000 error stalled: for long",
            "snp-collect: end",
        ];
        let attempts = parse(&lines.map(line)).unwrap();
        assert_eq!(attempts.len(), 2);
        assert_eq!(attempts[0].report, [2, 3]);
        assert_eq!(attempts[0].error, None);
        assert_eq!(attempts[1].error.as_deref(), Some("stalled: for long"));
        assert_eq!(attempts[1].took, Duration::from_secs(15));
    }
}
