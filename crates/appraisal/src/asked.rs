//! What evidence was asked for, by whichever way.

use crate::{
    appraiser::{Answer, Endorsements},
    document::PcrValue,
    running::{Statement, latched},
};
use evidence::{Bound, Evidence, StatementBinding};

/// When a node attests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before it gets a key: its latch is zero.
    Admission,
    /// After: its latch has this value, where a latch counts.
    Running(PcrValue),
}

/// Evidence, and what it has to be bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) stage: Stage,
    pub(crate) evidence: &'a Evidence,
    pub(crate) report_data: &'a [u8; 64],
    pub(crate) qualifying_data: [u8; 32],
    pub(crate) endorsements: Endorsements<'a>,
    pub(crate) now: u64,
}

impl<'a> Asked<'a> {
    pub(crate) fn on_channel(answer: &Answer<'a>) -> Self {
        Self {
            stage: Stage::Admission,
            evidence: answer.evidence,
            report_data: answer.binding.report_data(),
            qualifying_data: answer.binding.qualifying_data(),
            endorsements: answer.endorsements,
            now: answer.now,
        }
    }

    pub(crate) fn of_running(statement: &Statement<'a>, binding: &'a StatementBinding) -> Self {
        Self {
            stage: Stage::Running(latched(statement.subject.cluster)),
            evidence: statement.evidence,
            report_data: binding.report_data(),
            qualifying_data: binding.qualifying_data(),
            endorsements: statement.endorsements,
            now: statement.now,
        }
    }
}
