//! What a running node states to anybody who asks, under a label of its own.

use crate::{Binding, bound::Bound};
use aws_lc_rs::digest;
use core::fmt;
use identity::{ClusterId, NodeName};

/// What a verifier draws for each question, so that no answer is older than the question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 32]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// What a statement is about; input of [`StatementBinding::compute`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The verifier's nonce.
    pub nonce: &'a Nonce,
    /// The cluster that the node says it is in.
    pub cluster: &'a ClusterId,
    /// The name that the node says it has there.
    pub node: &'a NodeName,
}

/// Ties a statement's evidence to one question, one cluster and one node name.
///
/// It equals the [`Binding`] of no channel: both are SHA-512 over inputs that begin with different
/// labels, neither of which is a prefix of the other, and a caller chooses 32 bytes in the middle of
/// the input and none of the result. So a service that signs nothing but this is no oracle for
/// attested TLS, nor the other way round (docs/verify.md, "The binding").
#[derive(Clone, PartialEq, Eq)]
pub struct StatementBinding([u8; 64]);

impl StatementBinding {
    pub(crate) const LABEL: &[u8] = b"constellation-verification-v1\0";

    /// `SHA-512(label || nonce || cluster id || SHA-256(node name))`; every part has a fixed length, so
    /// the encoding is injective.
    #[must_use]
    pub fn compute(subject: &Subject<'_>) -> Self {
        let name = digest::digest(&digest::SHA256, subject.node.as_str().as_bytes());
        let mut hash = digest::Context::new(&digest::SHA512);
        hash.update(Self::LABEL);
        hash.update(&subject.nonce.0);
        hash.update(subject.cluster.as_bytes());
        hash.update(name.as_ref());
        let mut binding = [0; 64];
        binding.copy_from_slice(hash.finish().as_ref());
        Self(binding)
    }
}

impl Bound for StatementBinding {
    fn report_data(&self) -> &[u8; 64] {
        &self.0
    }
}

impl Bound for Binding {
    fn report_data(&self) -> &[u8; 64] {
        self.as_bytes()
    }
}

impl fmt::Debug for StatementBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "StatementBinding({:02x}{:02x}{:02x}{:02x}..)",
            self.0[0], self.0[1], self.0[2], self.0[3]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channel, Side};
    use alloc::{format, string::String};

    fn binding(nonce: u8, cluster: u8, node: &str) -> StatementBinding {
        StatementBinding::compute(&Subject {
            nonce: &Nonce([nonce; 32]),
            cluster: &ClusterId::from_bytes([cluster; 32]),
            node: &node.parse().unwrap(),
        })
    }

    #[test]
    fn every_part_of_the_subject_changes_the_binding() {
        let base = binding(1, 2, "worker-0");
        assert_eq!(base, binding(1, 2, "worker-0"));
        for other in [
            binding(3, 2, "worker-0"),
            binding(1, 3, "worker-0"),
            binding(1, 2, "worker-1"),
            binding(2, 1, "worker-0"),
        ] {
            assert_ne!(base, other);
        }
    }

    /// Computed with Python's hashlib from the definition in docs/verify.md.
    #[test]
    fn known_answer() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let binding = binding(1, 2, "worker-0");
        assert_eq!(
            hex(binding.report_data()),
            include_str!("../tests/fixtures/statement-binding.hex").trim()
        );
        assert_eq!(
            hex(&binding.qualifying_data()),
            include_str!("../tests/fixtures/statement-qualifying-data.hex").trim()
        );
    }

    /// Neither label begins the other, so no choice of what follows makes the hashed inputs equal.
    #[test]
    fn the_inputs_of_channels_and_statements_differ_before_anybody_has_a_choice() {
        let (statement, channel) = (StatementBinding::LABEL, Binding::LABEL);
        assert!(!statement.starts_with(channel) && !channel.starts_with(statement));
        let mut channel = statement.iter().zip(channel);
        assert!(channel.any(|(ours, theirs)| ours != theirs));
    }

    /// A caller that knows everything and feeds one side's whole input to the other gets nowhere.
    #[test]
    fn a_caller_that_plays_back_a_channel_gets_another_value() {
        let channel = Binding::compute(&Channel {
            attester: Side::Client,
            client_hello: b"one",
            server_hello: b"two",
            client_spki: b"three",
            server_spki: b"four",
            exporter: &[5; 32],
        });
        for part in [0, 32] {
            let mut nonce = [0; 32];
            nonce.copy_from_slice(&channel.as_bytes()[part..part + 32]);
            let stated = StatementBinding::compute(&Subject {
                nonce: &Nonce(nonce),
                cluster: &ClusterId::from_bytes(nonce),
                node: &"worker-0".parse().unwrap(),
            });
            assert_ne!(stated.report_data(), channel.as_bytes());
            assert_ne!(stated.qualifying_data(), channel.qualifying_data());
            assert_ne!(stated.qualifying_data(), nonce);
        }
    }
}
