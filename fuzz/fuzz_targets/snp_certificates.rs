//! Certificates of signing keys and revocation lists. The seeds are by a development root.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use snp::{Authorities, KeyKind, Leaf, Product, RevocationError, RevocationList, UnixTime};
use std::sync::LazyLock;

/// 2025-01-01, when the seeds are valid.
const NOW: UnixTime = UnixTime(1_735_689_600);

static AMD: LazyLock<[Authorities; 3]> = LazyLock::new(|| {
    Product::ALL.map(|product| Authorities::amd(product).expect("the pinned certificates are good"))
});

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    let kind = match which % 3 {
        0 => KeyKind::Vcek,
        1 => KeyKind::Vlek,
        _ => {
            let mut well_formed = true;
            for authorities in &*AMD {
                let list = RevocationList::authenticate(data, authorities, NOW);
                let error = list.expect_err("a list that AMD did not sign");
                well_formed &= matches!(error, RevocationError::Untrusted(_));
            }
            return well_formed;
        }
    };
    let Ok(leaf) = Leaf::parse(kind, data) else {
        return false;
    };
    let encoded = leaf.tcb().encode(leaf.product());
    assert_eq!(encoded.decode(leaf.product()), Ok(leaf.tcb()));
    for authorities in &*AMD {
        let leaf = authorities.authenticate_leaf(kind, data, None, NOW);
        assert!(leaf.is_err(), "a certificate that AMD did not sign");
    }
    true
}
