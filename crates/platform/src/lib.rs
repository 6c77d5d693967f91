//! Synchronous Linux edges: TPM device, block devices, device-mapper, mounts, network set-up.
