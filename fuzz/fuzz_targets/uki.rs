//! Images an operator was given.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(measure::predict::predict(data));
    drop(measure::uki::own(data, &[1; 32]));
});
