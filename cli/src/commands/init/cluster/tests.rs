use super::*;
use std::fmt;

fn refused<T: fmt::Debug>(parse: fn(&str) -> Result<T, String>, texts: &[&str]) {
    for text in texts {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn endpoints_are_a_host_and_a_port() {
    for good in ["10.0.0.1:6443", "api.example.org:443", "[fd00::1]:6443"] {
        assert_eq!(parse_endpoint(good), Ok(good.to_owned()));
    }
    let bad = [
        "",
        "10.0.0.1",
        ":6443",
        "a:0",
        "a:65536",
        "a b:1",
        "https://a:1",
        "fd00::1:1",
        "[a]:1",
        "a\n:1",
    ];
    refused(parse_endpoint, &bad);
}

#[test]
fn subnets_have_no_host_bits() {
    for good in ["10.96.0.0/12", "10.0.0.1/32", "fd00::/64", "fd00::1/128"] {
        assert_eq!(parse_subnet(good), Ok(good.to_owned()));
    }
    let bad = [
        "",
        "10.96.0.0",
        "10.96.0.1/12",
        "10.96.0.0/33",
        "10.0.0.0/-1",
        "0.0.0.0/0",
        "fd00::1/64",
        "fd00::/129",
        "a/8",
    ];
    refused(parse_subnet, &bad);
}

#[test]
fn versions_have_three_numbers() {
    assert_eq!(parse_version("v1.20.2"), Ok("v1.20.2".to_owned()));
    refused(
        parse_version,
        &["", "1.20.2", "v1.20", "v1.20.2-rc1", "v1..2", "latest"],
    );
}

#[test]
fn subnets_that_share_an_address_overlap() {
    for (one, other, shared) in [
        ("10.244.0.0/16", "10.96.0.0/12", false),
        ("10.96.0.0/11", "10.96.0.0/16", true),
        ("10.96.0.0/16", "10.96.0.0/11", true),
        ("10.96.128.0/17", "10.96.0.0/17", false),
        ("10.0.0.0/8", "fd00::/8", false),
        ("fd00::/64", "fd00::/108", true),
    ] {
        assert_eq!(overlap(one, other), shared, "{one} {other}");
    }
}
