//! Owner and admission keys, owner proofs and owner-signed documents.
