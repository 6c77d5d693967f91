//! What the targets have in common: seeds that are worth mutating.

use std::{env, sync::LazyLock};

/// `xtask fuzz` sets this, and runs each target's seeds once before it mutates any.
static SEEDS: LazyLock<bool> = LazyLock::new(|| env::var_os("FUZZ_SEEDS").is_some());

/// Says whether this input got as far as every seed has to; a seed that did not ends the run.
pub fn got_through(far_enough: bool) {
    assert!(
        far_enough || !*SEEDS,
        "this seed is refused before it gets to what is to be fuzzed"
    );
}
