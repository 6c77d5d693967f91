//! An answer of a server, as the agent reads it.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let split = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (header, body) = data.split_at(split);
    let header = String::from_utf8_lossy(header).into_owned();
    drop(api::grpc_web::decode_response::<
        api::join::IssueRejoinTicketResponse,
    >(
        |name| (name == "grpc-message" && !header.is_empty()).then(|| header.clone()),
        body,
    ));
});
