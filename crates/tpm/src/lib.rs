//! TPM 2.0 structures as a verifier needs them: quotes, public areas, credentials, event logs.
