use super::*;
use platform::{
    sev_guest::{self, ChildError, MalformedAnswer},
    tpm,
};
use std::{error::Error, io, path::Path, time::Duration};

fn exit_code(error: SevGuestError) -> u8 {
    let error = AttestError::from(error);
    assert_eq!(error.class(), Class::Internal);
    error.exit_reason().unwrap().code()
}

#[test]
fn every_failure_of_the_snp_device_has_its_number() {
    let malformed = MalformedAnswer::ReportSize { got: 1 };
    let request = SevGuestError::Request {
        firmware: 0x16,
        vmm: 0,
        source: io::ErrorKind::Other.into(),
    };
    let stalled = SevGuestError::Stalled {
        after: Duration::from_secs(15),
    };
    assert_eq!(exit_code(SevGuestError::Child(ChildError::Ended)), 50);
    assert_eq!(exit_code(SevGuestError::Throttled), 52);
    assert_eq!(exit_code(stalled), 53);
    assert_eq!(exit_code(SevGuestError::Firmware { got: 0x16 }), 54);
    assert_eq!(exit_code(request), 54);
    assert_eq!(exit_code(malformed.into()), 55);
}

/// A TPM serves the next session, whatever it made of this one.
#[test]
fn a_failure_of_a_tpm_ends_its_session_only() {
    let refused = || TpmError::Refused {
        command: "TPM2_ActivateCredential",
        code: 0x1df,
    };
    for (error, class) in [
        (AttestError::Activate(refused()), Class::Malformed),
        (
            AttestError::Activate(TpmError::Challenge("secret")),
            Class::Malformed,
        ),
        (AttestError::NoChallenge, Class::Internal),
        (AttestError::Quote(refused()), Class::Internal),
    ] {
        assert_eq!((error.class(), error.exit_reason()), (class, None));
    }
}

/// On a machine without the device of a kind there is no attester, whatever else is there.
#[test]
fn a_kind_without_its_device_opens_nothing_else() {
    for kind in EvidenceKind::ALL {
        let device = match kind {
            EvidenceKind::SevSnp | EvidenceKind::SevSnpVtpm => sev_guest::DEVICE_PATH,
            EvidenceKind::AzureSevSnp | EvidenceKind::Tpm => tpm::DEVICE_PATH,
        };
        if Path::new(device).exists() {
            eprintln!("skipped: {device} is there");
            continue;
        }
        let failure = open(kind).unwrap_err();
        assert_eq!(failure.reason, ExitReason::Attester);
        let text = failure.cause.to_string();
        assert!(text.contains(device), "{kind}: {text}");
        assert!(
            failure
                .cause
                .source()
                .is_some_and(<dyn Error>::is::<io::Error>)
        );
    }
}
