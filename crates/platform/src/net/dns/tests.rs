use super::{query::MAX_ADDRESSES, *};

const V4: [u8; 4] = [10, 0, 2, 2];

fn name() -> Vec<u8> {
    encode_name("join.example.org").unwrap()
}

/// An answer to `query` with these records, each `(owner, type, data)`.
fn answer(query: &Query<'_>, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
    let mut message = query.encode();
    message[2] |= 0x80;
    message[6..8].copy_from_slice(&u16::try_from(records.len()).unwrap().to_be_bytes());
    for (owner, kind, data) in records {
        message.extend_from_slice(owner);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        message.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend_from_slice(data);
    }
    message
}

/// A compression pointer to the question's name, which starts right after the header.
const POINTER: &[u8] = &[0xc0, 12];

#[test]
fn names() {
    assert_eq!(encode_name("a.b").unwrap(), b"\x01a\x01b\0");
    assert_eq!(encode_name("a.b."), encode_name("a.b"));
    let long = "a".repeat(64);
    let longer = vec!["a".repeat(63); 4].join(".");
    for bad in [
        "", ".", "a..b", ".a", "a b", "a/b", "ä", "a\0b", &long, &longer,
    ] {
        assert_eq!(encode_name(bad), None, "{bad:?}");
        assert!(!is_host_name(bad));
    }
}

#[test]
fn addresses_through_an_alias() {
    let name = name();
    let query = Query {
        id: 9,
        name: &name,
        family: Family::V4,
    };
    let alias = encode_name("lb.example.org").unwrap();
    let message = answer(
        &query,
        &[
            (POINTER, 5, &alias),
            (&alias, 1, &V4),
            (b"\x05other\0", 1, &[6; 4]),
        ],
    );
    assert_eq!(query.parse_answer(&message), Some(vec![V4.into()]));
}

#[test]
fn answers_to_other_questions_are_not_answers() {
    let name = name();
    let query = Query {
        id: 9,
        name: &name,
        family: Family::V4,
    };
    let good = answer(&query, &[(POINTER, 1, &V4)]);
    assert_eq!(query.parse_answer(&good), Some(vec![V4.into()]));

    let other_id = Query { id: 10, ..query };
    assert_eq!(other_id.parse_answer(&good), None);
    let other_kind = Query {
        family: Family::V6,
        ..query
    };
    assert_eq!(other_kind.parse_answer(&good), None);
    let mut question = good.clone();
    question[2] &= 0x7f;
    assert_eq!(query.parse_answer(&question), None);
    let mut failed = good.clone();
    failed[3] |= 2;
    assert_eq!(query.parse_answer(&failed), None, "server failure");
    let mut other_name = good;
    other_name[13] ^= 1;
    assert_eq!(query.parse_answer(&other_name), None);
}

#[test]
fn no_such_name_and_no_such_record_are_answers_without_addresses() {
    let name = name();
    let query = Query {
        id: 9,
        name: &name,
        family: Family::V6,
    };
    let mut missing = answer(&query, &[]);
    missing[3] |= 3;
    assert_eq!(query.parse_answer(&missing), Some(vec![]));
    assert_eq!(query.parse_answer(&answer(&query, &[])), Some(vec![]));
}

#[test]
fn pointer_loops_floods_and_lies_are_bounded() {
    let name = name();
    let query = Query {
        id: 9,
        name: &name,
        family: Family::V4,
    };
    let own_offset = u8::try_from(query.encode().len()).unwrap();
    let itself = [0xc0, own_offset];
    assert_eq!(
        query.parse_answer(&answer(&query, &[(&itself, 1, &V4)])),
        None
    );
    let flood = vec![(POINTER, 1, V4.as_slice()); 200];
    let found = query.parse_answer(&answer(&query, &flood)).unwrap();
    assert_eq!(found.len(), MAX_ADDRESSES);
    let mut lying = answer(&query, &[(POINTER, 1, &V4)]);
    lying[7] = 2;
    assert_eq!(
        query.parse_answer(&lying),
        None,
        "fewer records than counted"
    );
    let short = answer(&query, &[(POINTER, 1, &V4[..3])]);
    assert_eq!(query.parse_answer(&short), None);
}

#[test]
fn truncated_and_flipped_answers_never_panic() {
    let name = name();
    let query = Query {
        id: 9,
        name: &name,
        family: Family::V4,
    };
    let good = answer(&query, &[(POINTER, 5, POINTER), (POINTER, 1, &V4)]);
    for len in 0..good.len() {
        assert_eq!(query.parse_answer(&good[..len]), None, "{len}");
    }
    for index in 0..good.len() {
        for value in [0x00, 0x01, 0x3f, 0x40, 0xc0, 0xff] {
            let mut message = good.clone();
            message[index] = value;
            let found = query.parse_answer(&message);
            assert!(found.is_none_or(|found| found.len() <= 1));
        }
    }
}

#[test]
fn a_real_exchange_over_loopback() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut query = [0; MAX_MESSAGE];
        let (len, peer) = server.recv_from(&mut query).unwrap();
        let name = name();
        let asked = Query {
            id: u16::from_be_bytes([query[0], query[1]]),
            name: &name,
            family: Family::V4,
        };
        assert_eq!(asked.encode(), query[..len]);
        let stale = Query {
            id: asked.id ^ 1,
            ..asked
        };
        server
            .send_to(&answer(&stale, &[(POINTER, 1, &[6; 4])]), peer)
            .unwrap();
        server
            .send_to(&answer(&asked, &[(POINTER, 1, &V4)]), peer)
            .unwrap();
    });
    let name = name();
    let query = Query {
        id: 77,
        name: &name,
        family: Family::V4,
    };
    let found = ask(&query, address, Instant::now() + Duration::from_secs(10)).unwrap();
    thread.join().unwrap();
    assert_eq!(found, Some(vec![V4.into()]));
}

#[test]
fn without_servers_or_without_answers() {
    let now = Instant::now();
    assert!(matches!(
        resolve("a b", &[], now),
        Err(ResolveError::MalformedName)
    ));
    assert!(matches!(
        resolve("a", &[], now),
        Err(ResolveError::NoServer)
    ));
    let nobody = [IpAddr::from([127, 0, 0, 1])];
    assert!(matches!(
        resolve("a", &nobody, now),
        Err(ResolveError::NoAnswer { servers: 1 })
    ));
}
