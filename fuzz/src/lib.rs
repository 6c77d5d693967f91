//! What the targets have in common: seeds that are worth mutating, and an appraiser that accepts what it can.

use appraisal::{AppraisalError, Appraiser, Policy, ReferenceValues, ReportError};
use snp::{LeafError, RevocationError};
use std::{env, sync::LazyLock};

/// `xtask fuzz` sets this, and runs each target's seeds once before it mutates any.
static SEEDS: LazyLock<bool> = LazyLock::new(|| env::var_os("FUZZ_SEEDS").is_some());

/// Takes a target's word on whether the input got as far as every seed has to; a seed that did not ends the run.
pub fn got_through(far_enough: bool) {
    assert!(
        far_enough || !*SEEDS,
        "this seed is refused before it gets to what is to be fuzzed"
    );
}

/// An appraiser by these documents.
#[must_use]
pub fn appraiser(policy: &[u8], values: &[u8]) -> Appraiser {
    let policy = Policy::parse(policy).expect("the policy is good");
    let values = ReferenceValues::parse(values).expect("the reference values are good");
    Appraiser::new(policy, values).expect("they fit each other")
}

/// Whether evidence was refused for nothing but AMD's word: it is well-formed to the last byte.
#[must_use]
pub fn lacks_only_amd(error: &AppraisalError) -> bool {
    matches!(
        error,
        AppraisalError::Report(
            ReportError::Leaf(LeafError::Untrusted { .. })
                | ReportError::NoEndorsement { .. }
                | ReportError::Revocations(RevocationError::Untrusted(_))
        )
    )
}

/// The next part of an input, which has its length in two bytes before it; what there is, where it says too much.
pub fn part<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, after)) = rest.split_first_chunk() else {
        return &[];
    };
    let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
    let (part, after) = after.split_at(length);
    *rest = after;
    part
}
