//! Fetching from a key distribution service that rate-limits, lies, stalls and truncates: real
//! sockets, real certificates.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/development.rs"]
mod development;
#[path = "support/kds.rs"]
mod kds;

use development::{
    NOW, ROOT, TCB, authorities, endorsements, list, quick, store, vcek, vlek, wait,
};
use endorsements::{EndorsementId, FetchConfig, FetchError, Found, Kds as Client};
use kds::{Answer, Kds};
use snp::Report;
use software_snp::{Product, ReportFields, Tcb};
use std::{
    thread,
    time::{Duration, Instant},
};
use tempfile::tempdir;

/// Long enough for a thread on this machine to do what it is about to.
const MOMENT: Duration = Duration::from_millis(300);

#[test]
fn a_missing_certificate_comes_later_and_stays() {
    for product in Product::ALL {
        let (id, der) = vcek(product, 1, TCB);
        let body = der.clone();
        let kds = Kds::start(move |_, _| Answer::Body(body.clone()));
        let folder = tempdir().unwrap();
        let endorsements = endorsements(folder.path(), &kds.url, quick());
        assert_eq!(endorsements.request(&id), None);
        assert_eq!(wait(|| endorsements.request(&id)), der);
        let chip = match product {
            Product::Turin => "01010203040506ff".to_owned(),
            _ => format!("01010203040506ff{}", "0".repeat(112)),
        };
        let fmc = match product {
            Product::Turin => "fmcSPL=01&",
            _ => "",
        };
        let tcb = "blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115";
        let expected = format!("/vcek/v1/{}/{chip}?{fmc}{tcb}", product.name());
        assert_eq!(kds.paths(), [expected]);

        // The next process needs no network.
        drop(endorsements);
        assert_eq!(store(folder.path()).leaf(&id, NOW), Some(der));
    }
}

#[test]
fn one_request_serves_all_who_ask() {
    let (id, der) = vcek(Product::Milan, 1, TCB);
    let body = der.clone();
    let kds = Kds::start(move |_, _| {
        thread::sleep(MOMENT / 3);
        Answer::Body(body.clone())
    });
    let folder = tempdir().unwrap();
    let endorsements = endorsements(folder.path(), &kds.url, quick());
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| assert_eq!(wait(|| endorsements.request(&id)), der));
        }
    });
    assert_eq!(kds.paths().len(), 1);
}

#[test]
fn a_stalling_service_delays_nobody() {
    let kds = Kds::start(|_, _| Answer::Stall(Duration::from_secs(5)));
    let folder = tempdir().unwrap();
    let (known, der) = vcek(Product::Genoa, 1, TCB);
    let bundle = endorsements::Bundle::new(vec![(known.kind(), der.clone())], Vec::new());
    bundle.import(&store(folder.path()), NOW).unwrap();
    let endorsements = endorsements(folder.path(), &kds.url, quick());
    let (unknown, _) = vcek(Product::Genoa, 2, TCB);
    assert_eq!(endorsements.request(&unknown), None);
    wait(|| (!kds.paths().is_empty()).then_some(()));
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(endorsements.request(&known).as_ref(), Some(&der));
        assert_eq!(endorsements.request(&unknown), None);
    }
    assert!(start.elapsed() < Duration::from_millis(100));
    // Each attempt ends after its time, and the next comes later.
    wait(|| (kds.paths().len() >= 3).then_some(()));
    assert!(kds.gaps().iter().all(|gap| *gap >= quick().timeout / 2));
}

#[test]
fn failures_in_a_row_are_further_and_further_apart() {
    let failures = [
        Answer::Status(429, ""),
        Answer::Status(503, ""),
        Answer::Noise,
        Answer::Truncated(vec![0x30; 1000]),
        Answer::Status(302, "Location: http://127.0.0.1:1/\r\n"),
    ];
    let (id, der) = vcek(Product::Milan, 1, TCB);
    let body = der.clone();
    let kds = Kds::start(move |_, before| match failures.get(before) {
        Some(failure) => failure.clone(),
        None => Answer::Body(body.clone()),
    });
    let folder = tempdir().unwrap();
    let endorsements = endorsements(folder.path(), &kds.url, quick());
    assert_eq!(wait(|| endorsements.request(&id)), der);
    let gaps = kds.gaps();
    assert_eq!(gaps.len(), 5);
    // At least half of 40, 80, 160, 160, 160 milliseconds: jitter takes no more.
    for (gap, at_least) in gaps.iter().zip([20, 40, 80, 80, 80]) {
        assert!(*gap >= Duration::from_millis(at_least), "{gaps:?}");
    }
}

#[test]
fn the_service_may_say_how_long_to_wait() {
    let (id, der) = vcek(Product::Milan, 1, TCB);
    let body = der.clone();
    let kds = Kds::start(move |_, before| match before {
        0 => Answer::Status(429, "Retry-After: 1\r\n"),
        _ => Answer::Body(body.clone()),
    });
    let folder = tempdir().unwrap();
    let endorsements = endorsements(folder.path(), &kds.url, quick());
    assert_eq!(wait(|| endorsements.request(&id)), der);
    assert!(kds.gaps()[0] >= Duration::from_secs(1));
}

/// Every answer that is not the certificate asked for, and an honest answer to another question.
#[test]
fn a_lie_is_not_kept_and_stops_nothing_else() {
    let (id, right) = vcek(Product::Milan, 1, TCB);
    let older = Tcb {
        microcode: 114,
        ..TCB
    };
    let mut flipped = right.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let lies = [
        vcek(Product::Milan, 2, TCB).1,
        vcek(Product::Milan, 1, older).1,
        vcek(Product::Genoa, 1, TCB).1,
        vlek(Product::Milan, TCB).1,
        ROOT.chain(Product::Milan).ask.clone(),
        flipped,
        [right.clone(), vec![0]].concat(),
        right[..right.len() - 1].to_vec(),
        b"<html>maintenance</html>".to_vec(),
        Vec::new(),
    ];
    let (other, other_der) = vcek(Product::Milan, 9, TCB);
    for lie in lies {
        let honest = other_der.clone();
        let kds = Kds::start(move |_, before| match before {
            0 => Answer::Body(lie.clone()),
            _ => Answer::Body(honest.clone()),
        });
        let folder = tempdir().unwrap();
        let endorsements = endorsements(folder.path(), &kds.url, quick());
        assert_eq!(endorsements.request(&id), None);
        wait(|| (kds.paths().len() == 1).then_some(()));
        assert_eq!(wait(|| endorsements.request(&other)), other_der);
        // It is not asked again at once, and nothing of it is in the folder.
        assert_eq!(endorsements.request(&id), None);
        assert_eq!(kds.paths().len(), 2);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_the_service_does_not_have_is_not_asked_for_at_once() {
    for status in [400, 404] {
        let (id, der) = vcek(Product::Milan, 1, TCB);
        let kds = Kds::start(move |_, before| match before {
            0 => Answer::Status(status, ""),
            _ => Answer::Body(der.clone()),
        });
        let folder = tempdir().unwrap();
        let bounds = FetchConfig {
            absent: 2 * MOMENT,
            ..quick()
        };
        let endorsements = endorsements(folder.path(), &kds.url, bounds);
        wait(|| endorsements.request(&id));
        assert!(kds.gaps()[0] >= 2 * MOMENT);
        assert_eq!(kds.paths().len(), 2);
    }
}

#[test]
fn answers_are_bounded_in_size() {
    let (id, der) = vcek(Product::Milan, 1, TCB);
    let huge = [der, vec![0; 9000]].concat();
    for answer in [Answer::Endless, Answer::Body(huge)] {
        let kds = Kds::start(move |_, _| answer.clone());
        let client = Client::new(&kds.url, Duration::from_secs(5)).unwrap();
        let start = Instant::now();
        let error = client.leaf(&id).unwrap_err();
        assert!(matches!(error, FetchError::TooLarge(_)), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn redirects_are_not_followed() {
    let (id, der) = vcek(Product::Milan, 1, TCB);
    let target = Kds::start(move |_, _| Answer::Body(der.clone()));
    let location: &'static str = format!("Location: {}/\r\n", target.url).leak();
    let kds = Kds::start(move |_, _| Answer::Status(307, location));
    let client = Client::new(&kds.url, Duration::from_secs(5)).unwrap();
    let error = client.leaf(&id).unwrap_err();
    assert!(matches!(error, FetchError::Status(307)), "{error}");
    assert!(target.paths().is_empty());
}

#[test]
fn requests_keep_their_distance_and_the_queue_its_bound() {
    let all: Vec<_> = (0..8)
        .map(|number| vcek(Product::Milan, number, TCB))
        .collect();
    let answers = all.clone();
    let kds = Kds::start(move |path, _| {
        let of = |id: &&(EndorsementId, Vec<u8>)| path.contains(&hex_start(&id.0));
        Answer::Body(answers.iter().find(of).unwrap().1.clone())
    });
    let folder = tempdir().unwrap();
    let bounds = FetchConfig {
        interval: MOMENT / 6,
        queue: 4,
        ..quick()
    };
    let endorsements = endorsements(folder.path(), &kds.url, bounds);
    for (id, _) in &all {
        assert_eq!(endorsements.request(id), None);
    }
    thread::sleep(3 * MOMENT);
    // The first may be taken from the queue before the last is asked for.
    assert!((4..=5).contains(&kds.paths().len()), "{:?}", kds.paths());
    for (id, der) in &all {
        assert_eq!(wait(|| endorsements.request(id)), *der);
    }
    // The server sees a request a little after it is made.
    assert!(kds.gaps().iter().all(|gap| *gap >= MOMENT / 12));
}

fn hex_start(id: &EndorsementId) -> String {
    format!("/{:02x}01020304", id.chip_id().unwrap().0[0])
}

/// The service has no VLEKs: a provider loads them, and hosts hand them out.
#[test]
fn nobody_asks_for_a_vlek() {
    let kds = Kds::start(|_, _| Answer::Status(500, ""));
    let folder = tempdir().unwrap();
    let endorsements = endorsements(folder.path(), &kds.url, quick());
    let (id, der) = vlek(Product::Milan, TCB);
    assert_eq!(endorsements.request(&id), None);
    let bundle = endorsements::Bundle::new(vec![(id.kind(), der.clone())], Vec::new());
    bundle.import(endorsements.store(), NOW).unwrap();
    assert_eq!(endorsements.request(&id), Some(der));
    thread::sleep(MOMENT);
    assert!(kds.paths().is_empty());
    let client = Client::new(&kds.url, Duration::from_secs(5)).unwrap();
    assert!(matches!(client.leaf(&id), Err(FetchError::NotServed)));
}

#[test]
fn revocation_lists_are_fetched_and_an_older_one_is_not_taken() {
    let (older, newer) = (
        list(Product::Turin, NOW.0 - 9000),
        list(Product::Turin, NOW.0 - 1000),
    );
    let authorities = authorities();
    let turin = authorities.iter().nth(2).unwrap();
    let folder = tempdir().unwrap();
    // Each start asks for news once.
    for (answer, expected) in [(&older, &older), (&newer, &newer), (&older, &newer)] {
        let answer = answer.clone();
        let kds = Kds::start(move |_, _| Answer::Body(answer.clone()));
        let endorsements = endorsements(folder.path(), &kds.url, quick());
        wait(|| endorsements.request_revocation_list(turin));
        wait(|| (!kds.paths().is_empty()).then_some(()));
        thread::sleep(MOMENT);
        let found = endorsements.request_revocation_list(turin);
        assert_eq!(found.as_ref(), Some(expected));
        assert_eq!(kds.paths(), ["/vcek/v1/Turin/crl"]);
        drop(endorsements);
        let stored = store(folder.path()).revocation_list(turin, NOW);
        assert_eq!(stored.as_ref(), Some(expected));
    }
}

/// A host that gives the right certificate costs no request for one.
#[test]
fn what_the_host_gives_is_not_fetched() {
    let (id, der) = vcek(Product::Genoa, 1, TCB);
    let (_, other) = vcek(Product::Genoa, 2, TCB);
    let key = ROOT
        .vcek(Product::Genoa, &development::chip(1), TCB)
        .unwrap();
    let fields = ReportFields::new(Product::Genoa, development::chip(1), TCB);
    let authorities = authorities();
    let all: Vec<_> = authorities.iter().collect();
    for version in [2, 3] {
        let report = fields
            .clone()
            .with_version(version)
            .signed_by(&key)
            .unwrap();
        let report = Report::parse(&report).unwrap();
        let kds = Kds::start(|_, _| Answer::Status(404, ""));
        let folder = tempdir().unwrap();
        let endorsements = endorsements(folder.path(), &kds.url, quick());
        let nothing = Found::default();
        assert_eq!(endorsements.find(&report, &all, Some(&der)), nothing);
        wait(|| (!kds.paths().is_empty()).then_some(()));
        thread::sleep(MOMENT);
        assert_eq!(kds.paths(), ["/vcek/v1/Genoa/crl"]);
        // A wrong one does not help, nor does garbage: what is needed is fetched.
        assert_eq!(endorsements.find(&report, &all, Some(&other)), nothing);
        assert_eq!(endorsements.find(&report, &all, Some(b"garbage")), nothing);
        let genoa = "/vcek/v1/Genoa/01";
        wait(|| {
            kds.paths()
                .iter()
                .any(|path| path.starts_with(genoa))
                .then_some(())
        });
        // What was imported is found.
        let bundle = endorsements::Bundle::new(vec![(id.kind(), der.clone())], Vec::new());
        bundle.import(endorsements.store(), NOW).unwrap();
        for in_table in [None, Some(&der[..]), Some(&other[..])] {
            let found = endorsements.find(&report, &all, in_table);
            assert_eq!(found.leaf.as_ref(), Some(&der));
        }
    }
}

#[test]
fn lists_that_are_not_in_force_or_not_the_roots_are_not_kept() {
    let foreign = software_snp::DevelopmentRoot::generate().unwrap();
    let fields = software_snp::CrlFields {
        this_update: NOW.0 - 1000,
        next_update: NOW.0 + 1000,
        revoked: Vec::new(),
    };
    for lie in [
        list(Product::Milan, NOW.0 - 366 * 86_400),
        list(Product::Milan, NOW.0 + 1000),
        foreign.crl(Product::Milan, &fields).unwrap(),
        vec![0x30; 70_000],
    ] {
        let kds = Kds::start(move |_, _| Answer::Body(lie.clone()));
        let folder = tempdir().unwrap();
        let endorsements = endorsements(folder.path(), &kds.url, quick());
        let authorities = authorities();
        let milan = authorities.iter().next().unwrap();
        assert_eq!(endorsements.request_revocation_list(milan), None);
        wait(|| (!kds.paths().is_empty()).then_some(()));
        thread::sleep(MOMENT / 3);
        assert_eq!(endorsements.request_revocation_list(milan), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// Its thread ends with it, even in the middle of waiting.
#[test]
fn dropping_ends_the_thread() {
    let kds = Kds::start(|_, _| Answer::Status(429, "Retry-After: 600\r\n"));
    let folder = tempdir().unwrap();
    let endorsements = endorsements(folder.path(), &kds.url, quick());
    let (id, _) = vcek(Product::Milan, 1, TCB);
    assert_eq!(endorsements.request(&id), None);
    wait(|| (!kds.paths().is_empty()).then_some(()));
    let start = Instant::now();
    drop(endorsements);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn addresses_of_services_are_checked() {
    for url in [
        "",
        "kdsintf.amd.com",
        "ftp://x",
        "http://",
        "http://x/?a=b",
        "http://x/#y",
    ] {
        Client::new(url, MOMENT).unwrap_err();
    }
    for url in [
        endorsements::KDS_URL,
        "http://[::1]:8080/",
        "https://mirror.example/kds",
    ] {
        Client::new(url, MOMENT).unwrap();
    }
}
