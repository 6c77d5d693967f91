//! What kind of processor the hypervisor tells a guest it has.

use core::{fmt, str::FromStr};
use thiserror::Error;

/// QEMU's names of EPYC processors with family, model and stepping (`builtin_x86_defs` in
/// `target/i386/cpu.c`). The versions behind `-v` change features, not these three.
const TYPES: [(&str, u32, u32, u32); 5] = [
    ("EPYC-Rome", 23, 49, 0),
    ("EPYC-Milan", 25, 1, 1),
    ("EPYC-Genoa", 25, 17, 0),
    ("EPYC-Turin", 26, 0, 0),
    // Last: every other name starts with it.
    ("EPYC", 23, 1, 2),
];

/// Not a type that is known here. Class: malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an EPYC type that QEMU knows, nor a signature like `0x00a00f11`")]
pub struct UnknownVcpuType;

/// EAX of CPUID leaf 1, which QEMU puts into RDX of each virtual CPU as a reset does (APM, section
/// 14.1.3). For `-cpu host` it is that of the host's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuSignature(u32);

impl VcpuSignature {
    /// The signature of a family, model and stepping (AMD #24594, CPUID function 1): a family above
    /// 15 continues in the extended family, a model above 15 in the extended model.
    #[must_use]
    pub const fn new(family: u32, model: u32, stepping: u32) -> Self {
        let (low, high) = match family.checked_sub(15) {
            Some(high) => (15, high),
            None => (family, 0),
        };
        Self(
            (high & 0xff) << 20
                | (model >> 4 & 0xf) << 16
                | low << 8
                | (model & 0xf) << 4
                | stepping & 0xf,
        )
    }

    /// The value of the register.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// A name as after QEMU's `-cpu` (`EPYC-Milan`, `EPYC-v4`, `EPYC-IBPB`), or the signature itself in
/// hexadecimal.
impl FromStr for VcpuSignature {
    type Err = UnknownVcpuType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(digits) = text.strip_prefix("0x") {
            let signature = u32::from_str_radix(digits, 16);
            return signature.map(Self).map_err(|_| UnknownVcpuType);
        }
        let known = TYPES.iter().find_map(|(name, family, model, stepping)| {
            let version = text.strip_prefix(name)?;
            is_version(name, version).then_some(Self::new(*family, *model, *stepping))
        });
        known.ok_or(UnknownVcpuType)
    }
}

/// `EPYC-IBPB` is an old alias of `EPYC-v2`.
fn is_version(name: &str, text: &str) -> bool {
    let number = |digit: &str| matches!(digit.as_bytes(), [b'1'..=b'9']);
    text.is_empty()
        || text.strip_prefix("-v").is_some_and(number)
        || (name == "EPYC" && text == "-IBPB")
}

impl fmt::Display for VcpuSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_qemus_types() {
        for (name, signature) in [
            ("EPYC", 0x0080_0f12),
            ("EPYC-v4", 0x0080_0f12),
            ("EPYC-IBPB", 0x0080_0f12),
            ("EPYC-Rome-v2", 0x0083_0f10),
            ("EPYC-Milan", 0x00a0_0f11),
            ("EPYC-Milan-v2", 0x00a0_0f11),
            ("EPYC-Genoa-v1", 0x00a1_0f10),
            ("EPYC-Turin", 0x00b0_0f00),
            ("0x00a20f10", 0x00a2_0f10),
        ] {
            assert_eq!(name.parse(), Ok(VcpuSignature(signature)), "{name}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "epyc",
            "EPYC-",
            "EPYC-v",
            "EPYC-v0",
            "EPYC-v10",
            "EPYC-Milan-IBPB",
            "EPYC-Milanv1",
            "EPYC-Venice",
            "host",
            "0x",
            "0x1234567890",
            "a00f11",
        ] {
            let parsed: Result<VcpuSignature, _> = name.parse();
            assert_eq!(parsed, Err(UnknownVcpuType), "{name}");
        }
    }
}
