//! The firmware's event log, as the probe image shows it on its console.

use anyhow::{Context as _, Result, ensure};

/// Reads the log that the probe prints as hexadecimal lines after its length.
///
/// # Errors
/// If there is none, or a part of it is missing.
pub fn event_log<'a>(lines: impl Iterator<Item = &'a str> + Clone) -> Result<Vec<u8>> {
    let words = lines
        .clone()
        .filter_map(|line| line.strip_prefix("probe: log "));
    let digits: String = words.map(str::trim_end).collect();
    let length = lines
        .filter_map(|line| line.strip_prefix("probe: event-log bytes="))
        .next();
    let length = length.context("the probe found no event log")?;
    let length: usize = length.trim_end().parse()?;
    ensure!(
        digits.len() == 2 * length,
        "the event log on the console is cut"
    );
    let bytes = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair)?;
        Ok(u8::from_str_radix(pair, 16)?)
    });
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_log_is_read_back_and_a_cut_one_refused() {
        let whole = [
            "probe: event-log bytes=3",
            "probe: log 01ff",
            "probe: log 10",
        ];
        assert_eq!(event_log(whole.into_iter()).unwrap(), [1, 255, 16]);
        assert!(event_log(whole.into_iter().take(2)).is_err());
        assert!(event_log(["probe: event-log none"].into_iter()).is_err());
    }
}
