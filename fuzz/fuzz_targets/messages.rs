//! Every protobuf message that crosses a trust boundary, and its conversion to domain values.
#![no_main]
use api::{atls, join};
use fuzz::got_through;
use identity::{DiskId, Generation};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    match which % 13 {
        0 => atls::Hello::decode(data).is_ok_and(|hello| !format!("{hello:?}").is_empty()),
        1 => taken::<atls::TpmIdentity, evidence::TpmIdentity>(data),
        2 => taken::<atls::TpmEvidence, evidence::TpmEvidence>(data),
        3 => taken::<atls::OwnerProof, owner::OwnerProof>(data),
        4 => taken::<join::IssueJoinTicketRequest, api::JoinTicketRequest>(data),
        5 => taken::<join::IssueRejoinTicketRequest, api::RejoinTicketRequest>(data),
        6 => taken::<join::IssueJoinTicketResponse, api::JoinTicket>(data),
        7 => taken::<join::IssueRejoinTicketResponse, api::RejoinTicket>(data),
        8 => taken::<join::IssueJoinTicketRequest, api::InitTicketRequest>(data),
        9 => taken::<join::IssueJoinTicketResponse, api::InitTicket>(data),
        10 => taken::<join::RegisterDiskResponse, DiskId>(data),
        11 => taken::<join::CommitResponse, Generation>(data),
        _ => taken::<join::CommitRequest, api::CommitRequest>(data),
    }
}

/// Whether a message is one, and has a domain value.
fn taken<M: Message + Default, V: TryFrom<M>>(data: &[u8]) -> bool {
    M::decode(data).is_ok_and(|message| V::try_from(message).is_ok())
}
