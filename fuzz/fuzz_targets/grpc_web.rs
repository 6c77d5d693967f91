//! An answer of a server, as the agent reads it.
#![no_main]
use api::grpc_web::CallError;
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;

// The headers' status and message in a line, the body.
fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let split = data.iter().position(|byte| *byte == b'\n');
    let (header, body) = data.split_at(split.map_or(0, |end| end + 1));
    let header = String::from_utf8_lossy(header).trim_end().to_owned();
    let (status, message) = header.split_once(' ').unwrap_or((&header, ""));
    let answer = api::grpc_web::decode_response::<api::join::IssueRejoinTicketResponse>(
        |name| {
            let value = match name {
                "grpc-status" => status,
                "grpc-message" => message,
                _ => "",
            };
            (!value.is_empty()).then(|| value.to_owned())
        },
        body,
    );
    matches!(answer, Ok(_) | Err(CallError::Status(_)))
}
