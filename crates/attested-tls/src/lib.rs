//! Attested TLS: the exchange of evidence inside a TLS 1.3 channel.
