//! What a TPM, or somebody who claims to be one, sends: quote, signature, keys, event log.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    match which % 6 {
        0 => tpm::Quote::parse(data).is_ok(),
        1 => tpm::Signature::parse(data).is_ok(),
        2 => tpm::Public::parse(data).is_ok(),
        3 => tpm::AttestationKey::parse(data).is_ok(),
        4 => tpm::EndorsementKey::parse(data).is_ok(),
        _ => {
            let Ok(log) = tpm::EventLog::parse(data) else {
                return false;
            };
            for (pcr, value) in log.replay() {
                drop(log.explain(pcr, &value, &[]));
            }
            true
        }
    }
}
