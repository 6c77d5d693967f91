//! Every protobuf message that crosses a trust boundary, and its conversion to domain values.
#![no_main]
use api::{atls, join};
use identity::{DiskId, Generation};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 13 {
        0 => drop(atls::Hello::decode(data).map(|hello| format!("{hello:?}"))),
        1 => drop(atls::TpmIdentity::decode(data).map(evidence::TpmIdentity::try_from)),
        2 => drop(atls::TpmEvidence::decode(data).map(evidence::TpmEvidence::try_from)),
        3 => drop(atls::OwnerProof::decode(data).map(owner::OwnerProof::try_from)),
        4 => drop(join::IssueJoinTicketRequest::decode(data).map(api::JoinTicketRequest::try_from)),
        5 => drop(
            join::IssueRejoinTicketRequest::decode(data).map(api::RejoinTicketRequest::try_from),
        ),
        6 => drop(join::IssueJoinTicketResponse::decode(data).map(api::JoinTicket::try_from)),
        7 => drop(join::IssueRejoinTicketResponse::decode(data).map(api::RejoinTicket::try_from)),
        8 => drop(join::IssueJoinTicketRequest::decode(data).map(api::InitTicketRequest::try_from)),
        9 => drop(join::IssueJoinTicketResponse::decode(data).map(api::InitTicket::try_from)),
        10 => drop(join::RegisterDiskResponse::decode(data).map(DiskId::try_from)),
        11 => drop(join::CommitResponse::decode(data).map(Generation::try_from)),
        _ => drop(join::CommitRequest::decode(data).map(api::CommitRequest::try_from)),
    }
});
