//! A node that waits, played by the agent's own library on a software TPM: sessions, calls, sealed
//! secrets. What it has no disk for is left out.

use api::{CommitRequest, InitTicket, InitTicketRequest};
use attested_tls::{AttesterTerms, RpcClient, SealingKey, TlsEnd};
use evidence::AdmissionPath;
use identity::{DiskId, Generation};
use initrd_agent::{
    attest::Attester,
    calls::{self, CallsError},
    peers::{Outcome, Peers},
};
use owner::OwnerFingerprint;
use platform::tpm::{TpmAttester, Transport};
use secret::DataKey;
use software_tpm::{Connection, SoftwareTpm};
use std::{io, time::Duration};
use zeroize::Zeroizing;

const ENOUGH: Duration = Duration::from_secs(60);

struct Wire(Connection);

impl Transport for Wire {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.transact(command)
    }
}

/// One boot.
pub(crate) struct Node {
    peers: Peers,
    attester: Attester,
    sealing_key: SealingKey,
    pub(crate) port: u16,
}

/// What an init gave a node.
pub(crate) struct Given {
    pub(crate) disk: DiskId,
    pub(crate) ticket: InitTicket,
    pub(crate) data_key: DataKey,
    pub(crate) material: Zeroizing<Vec<u8>>,
}

/// An admitted node.
pub(crate) struct Admitted {
    client: RpcClient,
    sealing_key: SealingKey,
}

impl Node {
    /// Boots, for `owner`, and listens on `port`; 0 is any.
    pub(crate) fn boot(tpm: &SoftwareTpm, owner: OwnerFingerprint, port: u16) -> Self {
        let wire = Box::new(Wire(tpm.connect().unwrap()));
        let attester = Attester::Tpm(TpmAttester::start(wire, Vec::new()).unwrap());
        let sealing_key = SealingKey::generate().unwrap();
        let terms = AttesterTerms {
            owner,
            claim: attester.claim(),
            sealing_key: sealing_key.public_key(),
        };
        let mut peers = Peers::new(TlsEnd::generate().unwrap(), terms);
        let port = peers.listen(port).unwrap();
        Self {
            peers,
            attester,
            sealing_key,
            port,
        }
    }

    /// Waits for an init; nobody listens afterwards.
    pub(crate) fn admitted(mut self) -> Admitted {
        const PATHS: &[AdmissionPath] = &[AdmissionPath::Join, AdmissionPath::Init];
        let outcome = self.peers.run(&mut self.attester, PATHS, ENOUGH).unwrap();
        let Outcome::Admitted(admitted) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(admitted.channel.peer().path(), AdmissionPath::Init);
        Admitted {
            client: RpcClient::new(admitted.channel, admitted.stream, ENOUGH),
            sealing_key: self.sealing_key,
        }
    }
}

impl Admitted {
    pub(crate) fn register(&self) -> Result<DiskId, CallsError> {
        calls::register_disk(&self.client)
    }

    pub(crate) fn ticket(&self, disk: DiskId) -> Result<Given, CallsError> {
        let ticket = calls::init_ticket(&self.client, InitTicketRequest { disk })?;
        let binding = self.client.peer().binding();
        let data_key = self
            .sealing_key
            .open_data_key(&ticket.ticket.data_key, binding)
            .unwrap();
        let material = ticket.ticket.material.as_ref().unwrap();
        let material = self.sealing_key.open_material(material, binding).unwrap();
        Ok(Given {
            disk,
            ticket,
            data_key,
            material,
        })
    }

    pub(crate) fn commit(&self, disk: DiskId, generation: u64) -> Result<Generation, CallsError> {
        let generation = Generation(generation);
        calls::commit(&self.client, CommitRequest { disk, generation })
    }

    /// All calls of an init, in their order.
    pub(crate) fn initialise(&self, generation: u64) -> Given {
        let disk = self.register().unwrap();
        let given = self.ticket(disk).unwrap();
        assert_eq!(
            self.commit(disk, generation).unwrap(),
            Generation(generation)
        );
        given
    }
}
