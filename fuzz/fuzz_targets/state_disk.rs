//! The state disk's first bytes, and what a header holds once it is open.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use secret::DataKey;
use state_disk::{Header, Inspection, IntegritySuperblock, Preamble, inspect};

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 3 {
        0 => {
            let mut slots = [[0; 4096]; 2];
            for (slot, bytes) in slots.iter_mut().zip(data.chunks(4096)) {
                slot[..bytes.len()].copy_from_slice(bytes);
            }
            let inspection = inspect(&slots);
            got_through(matches!(inspection, Ok(Inspection::Sealed(_))));
            if let Ok(Inspection::Sealed(disk)) = inspection {
                let key = DataKey::from_slice(&[7; 32]).expect("32 bytes");
                assert!(
                    disk.open(&key).is_err(),
                    "a header that nobody sealed opened"
                );
            }
        }
        1 => {
            let Some((preamble, body)) = data.split_first_chunk::<64>() else {
                return;
            };
            let header = Preamble::parse(preamble)
                .ok()
                .map(|preamble| Header::decode_body(&preamble, body));
            got_through(matches!(header, Some(Ok(_))));
        }
        _ => {
            if let Some(block) = data.first_chunk::<4096>() {
                got_through(IntegritySuperblock::parse(block).is_ok());
            }
        }
    }
});
