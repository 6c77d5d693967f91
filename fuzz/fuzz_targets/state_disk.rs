//! The state disk's first bytes, and what a header holds once it is open.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use secret::DataKey;
use state_disk::{Header, Inspection, IntegritySuperblock, Preamble, inspect};

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    match which % 3 {
        0 => {
            let mut slots = [[0; 4096]; 2];
            for (slot, bytes) in slots.iter_mut().zip(data.chunks(4096)) {
                slot[..bytes.len()].copy_from_slice(bytes);
            }
            let Ok(Inspection::Sealed(disk)) = inspect(&slots) else {
                return false;
            };
            let key = DataKey::from_slice(&[7; 32]).expect("32 bytes");
            assert!(
                disk.open(&key).is_err(),
                "a header that nobody sealed opened"
            );
            true
        }
        1 => {
            let Some((preamble, body)) = data.split_first_chunk::<64>() else {
                return false;
            };
            Preamble::parse(preamble)
                .is_ok_and(|preamble| Header::decode_body(&preamble, body).is_ok())
        }
        _ => {
            let block = data.first_chunk::<4096>();
            block.is_some_and(|block| IntegritySuperblock::parse(block).is_ok())
        }
    }
}
