//! Numbers of the TPM 2.0 specification, by the name they have there.

/// `TPM_GENERATED_VALUE`: starts every structure a restricted key signs (Part 2, section 6.2).
pub const GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE` (Part 2, section 6.9).
pub const ST_ATTEST_QUOTE: u16 = 0x8018;

/// `TPM_ALG_ID` values (Part 2, section 6.3; TCG Algorithm Registry).
pub mod alg {
    /// RSA.
    pub const RSA: u16 = 0x0001;
    /// AES.
    pub const AES: u16 = 0x0006;
    /// SHA-256.
    pub const SHA256: u16 = 0x000b;
    /// No algorithm.
    pub const NULL: u16 = 0x0010;
    /// RSASSA-PKCS1-v1_5.
    pub const RSASSA: u16 = 0x0014;
    /// RSAES-PKCS1-v1_5.
    pub const RSAES: u16 = 0x0015;
    /// RSASSA-PSS.
    pub const RSAPSS: u16 = 0x0016;
    /// RSAES-OAEP.
    pub const OAEP: u16 = 0x0017;
    /// ECDSA.
    pub const ECDSA: u16 = 0x0018;
    /// Elliptic-curve keys.
    pub const ECC: u16 = 0x0023;
    /// Cipher feedback mode.
    pub const CFB: u16 = 0x0043;
}

/// `TPM_ECC_CURVE` values (Part 2, section 6.4).
pub mod curve {
    /// NIST P-256.
    pub const P256: u16 = 0x0003;
    /// NIST P-384.
    pub const P384: u16 = 0x0004;
}

/// `TPMA_OBJECT` bits (Part 2, section 8.3).
pub mod attribute {
    /// The key never leaves its TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// The key never changes its parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM made the key itself.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// The key may be used with its authorization value.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// Administration needs the policy.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// Failures do not count for the dictionary-attack lockout.
    pub const NO_DA: u32 = 1 << 10;
    /// The key works only on what the TPM made itself.
    pub const RESTRICTED: u32 = 1 << 16;
    /// The key decrypts.
    pub const DECRYPT: u32 = 1 << 17;
    /// The key signs.
    pub const SIGN: u32 = 1 << 18;
}
