//! How long to try again.

use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};

use crate::{
    admit::RETRY,
    output::{ExitStatus, UNAVAILABLE, WithHint as _},
};

/// Tries until the time is over that the operator gave.
pub(super) struct Patience {
    until: Instant,
    last: Option<anyhow::Error>,
}

impl Patience {
    /// From now on.
    pub(super) fn new(time: Duration) -> Self {
        Self {
            until: Instant::now() + time,
            last: None,
        }
    }

    /// A try led nowhere.
    pub(super) fn lost(&mut self, error: anyhow::Error) {
        self.last = Some(error);
    }

    /// Pauses before the next try, or gives up with the last error.
    pub(super) async fn wait(&mut self) -> Result<()> {
        if let Some(error) = self.last.take()
            && Instant::now() >= self.until
        {
            return Err(error)
                .hint(
                    "its console says where it is; run the same command again to go on, `--wait` tries longer",
                )
                .context(ExitStatus(UNAVAILABLE));
        }
        tokio::time::sleep(RETRY).await;
        Ok(())
    }
}
