//! Derivation of data keys from the master secret.
