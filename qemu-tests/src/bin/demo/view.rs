//! What the person at the terminal sees: one line a step, and what takes long while it does.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use qemu_tests::Timeline;

/// The view of one run.
pub(crate) struct View {
    started: Instant,
    live: bool,
    timeline: Timeline,
}

/// The view of one step while it runs.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
}

impl View {
    /// A live view on a terminal; plain lines elsewhere, and where console lines come in between.
    pub(crate) fn new(verbose: bool) -> Self {
        Self {
            started: Instant::now(),
            live: std::io::stdout().is_terminal() && !verbose,
            timeline: Timeline::default(),
        }
    }

    /// Runs a step. What it returns beside its value is shown on its line and in the table.
    pub(crate) fn step<T>(
        &mut self,
        label: &str,
        work: impl FnOnce(&Progress) -> Result<(T, String)>,
    ) -> Result<T> {
        let begun = Instant::now();
        let progress = Progress::start(label, self.started, self.live);
        let result = work(&progress);
        progress.finish();
        let (took, at) = (begun.elapsed(), self.started.elapsed());
        let (mark, note) = match &result {
            Ok((_, note)) => ("ok", note.as_str()),
            Err(_) => ("FAILED", ""),
        };
        println!("{} {label}: {mark} in {} {note}", clock(at), seconds(took));
        self.timeline.push(label, at, took, note);
        result
            .map(|(value, _)| value)
            .with_context(|| format!("step \"{label}\""))
    }

    /// A line between the steps.
    pub(crate) fn say(&self, text: impl Display) {
        println!("{} {text}", clock(self.started.elapsed()));
    }

    /// The table of all steps so far.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }
}

impl Progress {
    fn start(label: &str, started: Instant, live: bool) -> Self {
        let bar = live.then(|| spinner(label));
        let progress = Self { bar, started };
        if progress.bar.is_none() {
            progress.phase(label);
        }
        progress
    }

    /// Says what is being done now.
    pub(crate) fn phase(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => println!("{}   … {text}", clock(self.started.elapsed())),
        }
    }

    fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner(label: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_prefix(label.to_owned());
    // The template is a constant; should it ever not parse, the plain spinner is good enough.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix} … {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn clock(at: Duration) -> String {
    format!("[{:6.1} s]", at.as_secs_f64())
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
