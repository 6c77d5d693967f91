use serde::{Deserialize, Serialize};

/// A replayable run: how the world is set up and everything that happens in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Whether a decision runs in one transaction (embedded store) or read by read and write by
    /// write (Kubernetes objects).
    pub(crate) transactions: bool,
    /// Whether the machines are bare SEV-SNP guests, which no evidence tells apart, instead of machines
    /// with a TPM.
    #[serde(default)]
    pub(crate) sev_snp: bool,
    /// What happens.
    pub(crate) ops: Vec<Op>,
}

/// One thing that happens. Numbers choose among what there is at that moment, modulo its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Op {
    /// The power comes on.
    PowerOn(u8),
    /// The power goes, at whatever sub-step the machine is.
    PowerCut(u8),
    /// The power goes in the middle of a slot write or of a wipe.
    TornCut { machine: u8, cleartext: bool },
    /// The agent does what its state machine asked for.
    Step(u8),
    /// The agent gives up waiting for an answer.
    Timeout(u8),
    /// The next admission comes as a push of the operator, if the agent listens for one.
    Push(u8),
    /// A replica takes one step of one job.
    Advance(u8),
    /// A replica dies, or an answer is lost.
    Drop(u8),
    /// A request is processed twice.
    Duplicate(u8),
    /// The host zeroes the header slots.
    Blank(u8),
    /// The host keeps a copy of the disk.
    Save(u8),
    /// The host puts the copy back.
    Restore(u8),
    /// The host copies one machine's disk over another's.
    CopyDisk { from: u8, to: u8 },
    /// The host gives a machine another name.
    Rename { machine: u8, name: u8 },
    /// The host asks for the other role.
    SwapRole(u8),
    /// An attested machine sends what no honest agent sends.
    Forge {
        machine: u8,
        request: Forgery,
        disk: u8,
        generation: u8,
    },
    /// A node's lease is renewed.
    Renew(u8),
    /// Time passes.
    Wait(u8),
    /// The operator forgets a node.
    Forget(u8),
    /// The operator accepts a generation.
    AcceptGeneration { disk: u8, generation: u8 },
    /// The operator opens a control-plane name.
    OpenControlPlane(u8),
    /// The operator adopts the disk of a machine.
    Adopt(u8),
    /// The operator gives a machine another one's disk.
    Rebind { disk: u8, machine: u8 },
    /// The bootstrapper reports that init is over.
    FinishInit(u8),
    /// The operator's CLI copies the records.
    SyncCli,
}

/// Requests of a malicious node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Forgery {
    Join,
    Rejoin,
    Commit,
}
