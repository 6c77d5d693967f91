//! Responses of a TPM, or of a host's vTPM, to the commands of an attester. The seeds are swtpm's.
#![no_main]
use evidence::TpmChallenge;
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use platform::tpm::{HclAttester, TpmAttester, Transport, VtpmAttester};
use std::io;

/// `TPM_RC_YIELDED`, `TESTING`, `NV_RATE` and `RETRY` (Part 2, section 6.6.3): the attester would wait
/// and ask again.
const TRY_AGAIN: [[u8; 4]; 4] = [[0, 0, 9, 8], [0, 0, 9, 10], [0, 0, 9, 32], [0, 0, 9, 34]];

/// Says what the input has for it, each response with its length before it, and then nothing.
struct Script(Vec<u8>);

impl Transport for Script {
    fn transact(&mut self, _command: &[u8]) -> io::Result<Vec<u8>> {
        let over = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (length, rest) = self.0.split_first_chunk().ok_or_else(over)?;
        let length = usize::from(u16::from_be_bytes(*length)).min(4096);
        let (response, rest) = rest.split_at_checked(length).ok_or_else(over)?;
        let (response, rest) = (response.to_vec(), rest.to_vec());
        self.0 = rest;
        let code = response.get(6..10);
        if TRY_AGAIN.iter().any(|again| code == Some(again)) {
            return Err(over());
        }
        Ok(response)
    }
}

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, script)) = data.split_first() else {
        return false;
    };
    let transport = Box::new(Script(script.to_vec()));
    let pcrs = [0, 4, 15];
    match which % 3 {
        0 => {
            let Ok(mut attester) = TpmAttester::start(transport, Vec::new()) else {
                return false;
            };
            let challenge = TpmChallenge {
                credential_blob: vec![0, 2, 1, 1],
                encrypted_secret: vec![0, 2, 1, 1],
            };
            // Each, whatever came of the others.
            attester.activate(&challenge).is_ok()
                & attester.quote(&[7; 32], &pcrs).is_ok()
                & attester.extend(15, &[7; 32]).is_ok()
        }
        1 => {
            let attester = HclAttester::start(transport, Vec::new());
            attester.is_ok_and(|mut attester| attester.attest(&[7; 32], &pcrs).is_ok())
        }
        _ => {
            let attester = VtpmAttester::start(transport);
            attester.is_ok_and(|mut attester| attester.quote(&[7; 32], &pcrs).is_ok())
        }
    }
}
