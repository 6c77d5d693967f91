//! What a TPM, or somebody who claims to be one, sends: quote, signature, keys, event log.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    match which % 6 {
        0 => drop(tpm::Quote::parse(data)),
        1 => drop(tpm::Signature::parse(data)),
        2 => drop(tpm::Public::parse(data)),
        3 => drop(tpm::AttestationKey::parse(data)),
        4 => drop(tpm::EndorsementKey::parse(data)),
        _ => {
            if let Ok(log) = tpm::EventLog::parse(data) {
                for (pcr, value) in log.replay() {
                    drop(log.explain(pcr, &value, &[]));
                }
            }
        }
    }
});
