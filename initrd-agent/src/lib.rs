//! The initramfs agent: verified root, attested key, unlocked state disk.
