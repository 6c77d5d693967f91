use super::*;
use crate::join::CommitRequest;

fn message() -> CommitRequest {
    CommitRequest {
        disk_uuid: "x".into(),
        generation: 7,
    }
}

fn body(trailers: &str) -> Vec<u8> {
    let mut body = encode_request(&message());
    body.extend(encode_frame(FLAG_TRAILERS, trailers.as_bytes()));
    body
}

fn decode(body: &[u8]) -> Result<CommitRequest, CallError> {
    decode_response(|_| None, body)
}

fn with_headers(status: &'static str, text: &'static str) -> Result<CommitRequest, CallError> {
    let header = |name: &str| match name {
        "grpc-status" => Some(status.to_owned()),
        "grpc-message" => Some(text.to_owned()),
        _ => None,
    };
    decode_response(header, &[])
}

#[test]
fn a_message_and_ok_trailers_are_the_answer() {
    for trailers in [
        "grpc-status:0\r\n",
        "Grpc-Status: 0\r\nx: y\r\n",
        "grpc-status:0",
    ] {
        assert_eq!(decode(&body(trailers)), Ok(message()));
    }
}

#[test]
fn a_status_in_trailers_or_headers_is_the_servers_error() {
    let expected = Err(CallError::Status(Status {
        code: 7,
        text: "PCR 11: refused".into(),
    }));
    let trailers = "grpc-status:7\r\ngrpc-message:PCR%2011%3A refused\r\n";
    assert_eq!(decode(&body(trailers)), expected);
    assert_eq!(
        decode(&encode_frame(FLAG_TRAILERS, trailers.as_bytes())),
        expected
    );
    assert_eq!(with_headers("7", "PCR%2011%3A refused"), expected);
    let Err(error) = expected else { unreachable!() };
    assert_eq!(error.class(), Class::Refused);
}

#[test]
fn every_truncation_is_refused() {
    let whole = body("grpc-status:0\r\n");
    for len in 0..whole.len() {
        let error = decode(&whole[..len]).unwrap_err();
        assert_eq!(error, CallError::Truncated, "{len}");
        assert_eq!(error.class(), Class::Malformed);
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let ok = encode_frame(FLAG_TRAILERS, b"grpc-status:0\r\n");
    let data = encode_request(&message());
    for (body, expected) in [
        (
            [data.clone(), data.clone(), ok.clone()].concat(),
            CallError::Shape,
        ),
        ([ok.clone(), data.clone()].concat(), CallError::Shape),
        ([ok.clone(), ok.clone()].concat(), CallError::Shape),
        (ok.clone(), CallError::Shape),
        ([ok, vec![0]].concat(), CallError::Shape),
        (body(""), CallError::NoStatus),
        (body("grpc-status:-1\r\n"), CallError::NoStatus),
        (body("grpc-status:OK\r\n"), CallError::NoStatus),
        (body("\u{ff}"), CallError::NoStatus),
        (vec![1, 0, 0, 0, 0], CallError::Flags { got: 1 }),
        (vec![0x81, 0, 0, 0, 0], CallError::Flags { got: 0x81 }),
    ] {
        assert_eq!(decode(&body), Err(expected), "{body:?}");
    }
}

#[test]
fn announced_lengths_are_bounded_before_anything_is_read() {
    let got = MAX_MESSAGE + 1;
    let mut body = vec![FLAG_DATA];
    body.extend(u32::try_from(got).unwrap().to_be_bytes());
    let max = MAX_MESSAGE;
    assert_eq!(decode(&body), Err(CallError::TooLong { max, got }));
    body[..5].copy_from_slice(&[FLAG_TRAILERS, 0xff, 0xff, 0xff, 0xff]);
    assert!(matches!(
        decode(&body),
        Err(CallError::TooLong {
            max: MAX_TRAILERS,
            ..
        })
    ));
}

#[test]
fn a_message_of_another_type_is_malformed() {
    let mut body = encode_frame(FLAG_DATA, &[0xff; 9]);
    body.extend(encode_frame(FLAG_TRAILERS, b"grpc-status:0\r\n"));
    assert!(matches!(decode(&body), Err(CallError::Message(_))));
}

#[test]
fn error_texts_are_bounded_and_printable() {
    for (escaped, expected) in [
        ("a%0ab%1b[2J", "a?b?[2J"),
        ("100%", "100%"),
        ("%zz%4", "%zz%4"),
        ("%C3%A4", "ä"),
        ("%ff", "\u{fffd}"),
        ("", ""),
    ] {
        assert_eq!(percent_decode(escaped), expected);
    }
    assert_eq!(percent_decode(&"x".repeat(5000)).len(), MAX_ERROR_TEXT);
}
