//! An audit log somebody may have written.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _report = audit::verify(text.lines(), &[[1; 32]], &[]);
});
