//! What `mini` is doing, line by line.

use std::time::Instant;

/// Lines with the time since the command began, on standard error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress(Instant);

impl Progress {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn say(self, text: &str) {
        eprintln!("{:7.1} s  {text}", self.0.elapsed().as_secs_f64());
    }
}
