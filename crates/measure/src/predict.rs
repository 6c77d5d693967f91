//! Which PCR values the boot of a UKI leaves behind.

use crate::{
    pcr::Register,
    pe::{Pe, PeError},
    uki::{Uki, UkiError},
};
use thiserror::Error;

/// In the order the stub measures them (`UnifiedSection` in systemd's `src/fundamental/uki.h`).
const STUB_ORDER: [&str; 6] = [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"];

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
    /// The latch (design, section 3): zero until the agent extends it.
    pub pcr15: Register,
}

/// Predicts the registers of a boot of `uki`.
///
/// # Errors
/// [`PredictError`] if the file has a section whose effect is not known.
pub fn predict(uki: &[u8]) -> Result<UkiPcrs, PredictError> {
    let uki = Uki::parse(uki).map_err(PredictError::Uki)?;
    Ok(UkiPcrs {
        pcr4: pcr4(&uki)?,
        pcr9: pcr9(&uki)?,
        pcr11: pcr11(&uki),
        pcr12: Register::ZERO,
        pcr13: Register::ZERO,
        pcr15: Register::ZERO,
    })
}

/// TCG PC Client Platform Firmware Profile, section 3.3.4.5: the boot attempt, the separator that
/// ends the firmware's own part, then every image loaded.
fn pcr4(uki: &Uki<'_>) -> Result<Register, PredictError> {
    let kernel = uki.section(".linux").map_err(PredictError::Uki)?;
    let kernel = Pe::parse(kernel).map_err(PredictError::Kernel)?;
    let mut register = Register::ZERO;
    register.measure(b"Calling EFI Application from Boot Option");
    register.measure(&[0; 4]);
    register.extend(
        &uki.pe()
            .authenticode_sha256()
            .map_err(PredictError::Image)?,
    );
    register.extend(&kernel.authenticode_sha256().map_err(PredictError::Kernel)?);
    Ok(register)
}

/// The kernel's EFI stub measures load options, then the initramfs (`efi_measure_tagged_event` in
/// `drivers/firmware/efi/libstub/efi-stub-helper.c`).
fn pcr9(uki: &Uki<'_>) -> Result<Register, PredictError> {
    let mut register = Register::ZERO;
    register.measure(&uki.cmdline().load_options());
    register.measure(uki.section(".initrd").map_err(PredictError::Uki)?);
    Ok(register)
}

/// Each section that is there: its name with the terminating zero, then its content.
fn pcr11(uki: &Uki<'_>) -> Register {
    let mut register = Register::ZERO;
    for name in STUB_ORDER {
        if let Some(section) = uki.pe().section(name) {
            register.measure(&[name.as_bytes(), &[0]].concat());
            register.measure(section.data());
        }
    }
    register
}
