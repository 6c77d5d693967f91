//! A partition table on a disk of the host.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(platform::gpt::parse(data, 512));
    drop(platform::gpt::parse(data, 4096));
});
