//! The run as the operator sees it: a bar on a terminal, plain lines elsewhere; standard error.

use api::bootstrap::{Phase, PhaseState};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

/// The longest line that is shown of what the node says, in characters.
const MAX_LINE: usize = 200;

/// What was shown.
pub(super) struct Report {
    bar: Option<ProgressBar>,
    shown: String,
    phases: BTreeMap<u32, PhaseReport>,
    lines: Lines,
}

/// A follower who comes again is told everything again.
#[derive(Default)]
struct Lines {
    /// Told by this connection.
    told: usize,
    /// Shown of all.
    shown: usize,
}

/// A phase that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PhaseReport {
    name: String,
    /// Since the run began.
    elapsed_ms: u64,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            bar: std::io::stderr().is_terminal().then(bar),
            shown: String::new(),
            phases: BTreeMap::new(),
            lines: Lines::default(),
        }
    }

    /// Another connection tells of the same run.
    pub(super) const fn follow_again(&mut self) {
        self.lines.told = 0;
    }

    /// The node has booted again, and another run begins.
    pub(super) fn forget_run(&mut self) {
        self.phases.clear();
        self.lines = Lines::default();
    }

    /// How much the run has told so far.
    pub(super) fn seen(&self) -> usize {
        self.phases.len().saturating_add(self.lines.shown)
    }

    /// What this command does.
    pub(super) fn step(&mut self, text: &str) {
        self.show(text.to_owned());
    }

    /// What the bootstrapper does.
    pub(super) fn phase(&mut self, phase: &Phase) {
        if self.phases.contains_key(&phase.number) {
            return;
        }
        let name = printable(&phase.name);
        let (number, of) = (phase.number, phase.of);
        let text = match phase.state() {
            PhaseState::Done => "done",
            PhaseState::Failed => "failed",
            PhaseState::Running | PhaseState::Unspecified => "running",
        };
        if phase.state() == PhaseState::Done {
            let report = PhaseReport {
                name: name.clone(),
                elapsed_ms: phase.elapsed_ms,
            };
            self.phases.insert(number, report);
        }
        let elapsed = Duration::from_millis(phase.elapsed_ms).as_secs_f64();
        self.show(format!("[{number}/{of}] {name}: {text} at {elapsed:.1} s"));
    }

    /// A line of a program that the bootstrapper runs.
    pub(super) fn log(&mut self, line: &str) {
        self.lines.told += 1;
        if self.lines.told <= self.lines.shown {
            return;
        }
        self.lines.shown += 1;
        let line = format!("    {}", printable(line));
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// The phases that are over, in their order.
    pub(super) fn finish(self) -> Vec<PhaseReport> {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.phases.into_values().collect()
    }

    fn show(&mut self, text: String) {
        if text == self.shown {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(text.clone()),
            None => eprintln!("{text}"),
        }
        self.shown = text;
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A node's text on the operator's terminal: no control characters, one line, not endless.
pub(super) fn printable(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(printable).take(MAX_LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(number: u32, name: &str, elapsed_ms: u64) -> Phase {
        Phase {
            name: name.into(),
            number,
            of: 2,
            state: PhaseState::Done.into(),
            elapsed_ms,
        }
    }

    #[test]
    fn a_run_that_is_followed_twice_is_reported_once_and_in_order() {
        let mut report = Report::new();
        for phase in [
            done(2, "join", 20),
            done(1, "init", 10),
            done(2, "join", 30),
        ] {
            report.follow_again();
            report.phase(&phase);
            report.log("a");
        }
        assert_eq!(report.lines.shown, 1);
        let phases = report.finish().into_iter();
        let phases: Vec<_> = phases.map(|phase| (phase.name, phase.elapsed_ms)).collect();
        assert_eq!(phases, [("init".into(), 10), ("join".into(), 20)]);
    }

    #[test]
    fn a_nodes_text_does_nothing_to_the_terminal() {
        assert_eq!(printable("a\x1b[2J\nb"), "a?[2J?b");
        assert_eq!(printable(&"x".repeat(1000)).len(), MAX_LINE);
    }
}
