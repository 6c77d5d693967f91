//! Which PCR values the boot of a UKI leaves behind.

use crate::{
    pcr::{Register, sha256},
    pe::{Pe, PeError},
    uki::{Uki, UkiError},
};
use alloc::{borrow::ToOwned, collections::BTreeMap, format, string::String, vec, vec::Vec};
use thiserror::Error;
use tpm::ExpectedEvent;

/// Versions of the stub whose measurements were compared with a real boot.
const STUBS: [u32; 2] = [254, 257];

/// In the order the stub measures them (`UnifiedSection` in systemd's `src/fundamental/uki.h`).
const STUB_ORDER: [&str; 5] = [".linux", ".cmdline", ".initrd", ".uname", ".sbat"];

/// Why no values can be predicted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PredictError {
    /// Class: malformed.
    #[error("the kernel in section `.linux`")]
    Kernel(#[source] PeError),
    /// Class: malformed.
    #[error("the image")]
    Image(#[source] PeError),
    /// A stub whose measurements are not known here. Class: refused.
    #[error("expected the stub of systemd 254 or 257, got `{got}`")]
    Stub {
        /// What the file says.
        got: String,
    },
    /// Class: that of its source.
    #[error("the unified kernel image")]
    Uki(#[source] UkiError),
}

/// The registers that follow from the UKI alone, after a boot from the removable-media path of an
/// otherwise empty machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UkiPcrs {
    /// What the firmware loaded and started: this UKI, and the kernel in it.
    pub pcr4: Register,
    /// What the kernel's own EFI stub got: command line and initramfs.
    pub pcr9: Register,
    /// What the systemd stub found in the UKI.
    pub pcr11: Register,
    /// Overridden command line, credentials: nothing.
    pub pcr12: Register,
    /// System extensions: nothing.
    pub pcr13: Register,
    /// The latch: zero until the agent extends it.
    pub pcr15: Register,
}

/// Predicts the registers of a boot of `uki`.
///
/// # Errors
/// [`PredictError`] if the file has a section whose effect is not known.
pub fn predict(uki: &[u8]) -> Result<UkiPcrs, PredictError> {
    let events = events(uki)?;
    let register = |index: u32| {
        let mut register = Register::ZERO;
        for event in events.get(&index).into_iter().flatten() {
            register.extend(&event.digest);
        }
        register
    };
    Ok(UkiPcrs {
        pcr4: register(4),
        pcr9: register(9),
        pcr11: register(11),
        pcr12: register(12),
        pcr13: register(13),
        pcr15: register(15),
    })
}

/// Every event of a boot of `uki` that follows from it, by PCR, in the order they are logged.
///
/// # Errors
/// [`PredictError`] if the file has a section whose effect is not known.
pub fn events(uki: &[u8]) -> Result<BTreeMap<u32, Vec<ExpectedEvent>>, PredictError> {
    let uki = Uki::parse(uki).map_err(PredictError::Uki)?;
    check_stub(&uki)?;
    Ok(BTreeMap::from([
        (4, loaded_images(&uki)?),
        (9, kernel_inputs(&uki)?),
        (11, stub_sections(&uki)),
    ]))
}

/// Later stubs load the kernel themselves or add files to the initramfs, earlier ones measure
/// other sections; for them the values would be wrong.
fn check_stub(uki: &Uki<'_>) -> Result<(), PredictError> {
    let magic = uki.pe().section(".sdmagic").map(|section| section.data());
    let text = String::from_utf8_lossy(magic.unwrap_or_default());
    let version = text.strip_prefix("#### LoaderInfo: systemd-stub ");
    let major = version.and_then(|version| version.split('.').next());
    match major.and_then(|major| major.parse().ok()) {
        Some(major) if STUBS.contains(&major) => Ok(()),
        _ => Err(PredictError::Stub {
            got: text.into_owned(),
        }),
    }
}

/// TCG PC Client Platform Firmware Profile, section 3.3.4.5: the boot attempt, the separator that
/// ends the firmware's own part, then every image loaded. Firmware that first tries another boot
/// option measures that attempt, too: the UKI has to be the first one.
fn loaded_images(uki: &Uki<'_>) -> Result<Vec<ExpectedEvent>, PredictError> {
    let kernel = uki.section(".linux").map_err(PredictError::Uki)?;
    let kernel = Pe::parse(kernel).map_err(PredictError::Kernel)?;
    let image = uki.pe().authenticode_sha256();
    let kernel = kernel.authenticode_sha256();
    let attempt = "Calling EFI Application from Boot Option";
    Ok(vec![
        measured(attempt, attempt.as_bytes()),
        measured("separator", &[0; 4]),
        event("unified kernel image", image.map_err(PredictError::Image)?),
        event("kernel in it", kernel.map_err(PredictError::Kernel)?),
    ])
}

/// The kernel's EFI stub measures load options, then the initramfs (`efi_measure_tagged_event` in
/// `drivers/firmware/efi/libstub/efi-stub-helper.c`).
fn kernel_inputs(uki: &Uki<'_>) -> Result<Vec<ExpectedEvent>, PredictError> {
    let initrd = uki.section(".initrd").map_err(PredictError::Uki)?;
    Ok(vec![
        measured("kernel command line", &uki.cmdline().load_options()),
        measured("initramfs", initrd),
    ])
}

/// Each section that is there: its name with the terminating zero, then its content.
fn stub_sections(uki: &Uki<'_>) -> Vec<ExpectedEvent> {
    let mut events = Vec::new();
    for name in STUB_ORDER {
        if let Some(section) = uki.pe().section(name) {
            let with_zero = [name.as_bytes(), &[0]].concat();
            events.push(measured(&format!("name of section {name}"), &with_zero));
            events.push(measured(&format!("section {name}"), section.data()));
        }
    }
    events
}

fn measured(name: &str, data: &[u8]) -> ExpectedEvent {
    event(name, sha256(data))
}

fn event(name: &str, digest: [u8; 32]) -> ExpectedEvent {
    ExpectedEvent {
        name: name.to_owned(),
        digest,
    }
}
