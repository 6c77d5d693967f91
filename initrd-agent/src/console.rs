//! The serial console: one line a step, `agent: <seconds> <step> <key=value…>`.
//!
//! Seconds count from the start of the kernel. Nothing secret is ever a value here.

use crate::exit::{Failure, chain};
use rustix::time::{ClockId, clock_gettime};
use std::{
    fmt::Display,
    fs::{self, OpenOptions},
    io,
    io::Write,
    path::Path,
};

/// One line, sent when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Line(String);

/// Starts the line of a step.
pub fn step(name: &str) -> Line {
    let now = clock_gettime(ClockId::Monotonic);
    let millis = now.tv_nsec / 1_000_000;
    Line(format!("agent: {}.{millis:03} {name}", now.tv_sec))
}

impl Line {
    /// Adds a word: a value without spaces and control characters, whoever it came from.
    pub fn with(mut self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        let word = |c: char| if c.is_control() || c == ' ' { '_' } else { c };
        self.push(key, value.chars().map(word).take(300));
        self
    }

    /// Adds a text at the end of the line, in quotes.
    pub fn with_text(mut self, key: &str, text: &str) -> Self {
        let quoted = format!("{text:?}");
        self.push(key, quoted.chars());
        self
    }

    /// Sends the line.
    pub fn end(self) {
        drop(self);
    }

    fn push(&mut self, key: &str, value: impl Iterator<Item = char>) {
        self.0.push(' ');
        self.0.push_str(key);
        self.0.push('=');
        self.0.extend(value);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.push_str("\r\n");
        // One write, so that the kernel's own lines do not cut it. A dead console stops nothing.
        io::stderr()
            .write_all(self.0.as_bytes())
            .unwrap_or_default();
    }
}

/// Says why the boot ends: the chain of causes, then the row of the table as the last line.
pub fn report(failure: &Failure) {
    step("failed")
        .with_text("error", &chain(failure.cause.as_ref()))
        .end();
    let reason = failure.reason;
    step("exit")
        .with("code", reason.code())
        .with("reason", reason.name())
        .with("action", reason.action())
        .end();
}

/// Quietens the kernel below warnings on the console, so that the lines stay readable.
pub fn quieten_kernel() {
    fs::write("/proc/sys/kernel/printk", "4").unwrap_or_default();
}

/// Takes the kernel's `SysRq` commands from the console. The console is the host's, and a BREAK on a
/// serial line is that key: it prints registers, ends programs and remounts file systems. `settings` is
/// `/proc/sys/kernel`; a kernel without these commands has no such file.
///
/// # Errors
/// When they are there and stay.
pub fn deny_sysrq(settings: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(settings.join("sysrq"));
    match file {
        Ok(mut file) => file.write_all(b"0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysrq_is_denied_where_it_exists() {
        let settings = tempfile::tempdir().unwrap();
        deny_sysrq(settings.path()).unwrap();
        assert!(!settings.path().join("sysrq").exists());
        fs::write(settings.path().join("sysrq"), "1").unwrap();
        deny_sysrq(settings.path()).unwrap();
        assert_eq!(fs::read(settings.path().join("sysrq")).unwrap(), b"0");
        assert!(deny_sysrq(&settings.path().join("sysrq")).is_err());
    }

    fn text(mut line: Line) -> String {
        std::mem::take(&mut line.0)
    }

    #[test]
    fn a_line_is_words() {
        let line = text(
            step("network")
                .with("address", "10.0.2.15/24")
                .with("link", "eth 0\n"),
        );
        let words: Vec<_> = line.split(' ').collect();
        assert_eq!(words[0], "agent:");
        let (seconds, millis) = words[1].split_once('.').unwrap();
        assert!(seconds.parse::<u64>().is_ok() && millis.len() == 3);
        assert_eq!(
            words[2..],
            ["network", "address=10.0.2.15/24", "link=eth_0_"]
        );
    }

    #[test]
    fn values_are_bounded_and_texts_quoted() {
        assert!(text(step("a").with("v", "x".repeat(5000))).len() < 400);
        assert!(
            text(step("a").with_text("error", "it \"broke\"\n"))
                .ends_with(r#"error="it \"broke\"\n""#)
        );
    }
}
