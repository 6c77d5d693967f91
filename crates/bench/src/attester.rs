//! A node as the services see it: real sessions of an attester whose TPM or processor is its keys.

use crate::machine::Machine;
use anyhow::{Context as _, Result, ensure};
use api::{
    CertificateRequests, CommitRequest, JoinTicketRequest, RejoinTicket, RejoinTicketRequest, join,
};
use attested_tls::{
    AttesterProgress, AttesterSession, AttesterTerms, RpcClient, SealingKey, Start, TlsEnd,
};
use evidence::AdmissionPath;
use identity::{DiskId, Generation, KeyVersion, Role};
use initrd_agent::kubelet::KubeletKeys;
use owner::OwnerFingerprint;
use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// For one handshake or call; long, because some calls wait for a key service that stands still.
const PATIENCE: Duration = Duration::from_secs(100);

/// A node that has joined or will.
#[derive(Debug)]
pub(crate) struct Attester {
    machine: Machine,
    end: TlsEnd,
    site: Site,
    name: String,
    disk: Option<DiskId>,
    /// What its kubelet asks to be certified, where there is a Kubernetes.
    requests: Option<CertificateRequests>,
}

/// Where the node goes, and for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// The join service.
    pub(crate) address: SocketAddr,
    /// The owner.
    pub(crate) owner: OwnerFingerprint,
}

/// An accepted node's channel, in one boot of its own.
#[derive(Debug)]
pub(crate) struct Accepted {
    client: RpcClient,
    sealing_key: SealingKey,
}

impl Attester {
    /// A node that has not joined.
    pub(crate) fn new(machine: Machine, site: Site, name: String) -> Result<Self> {
        Ok(Self {
            machine,
            end: TlsEnd::generate()?,
            site,
            name,
            disk: None,
            requests: None,
        })
    }

    /// From now on with keys of a kubelet that are to be certified.
    pub(crate) fn with_kubelet(mut self) -> Result<Self> {
        // Nobody gets a certificate for a loopback address.
        let keys = KubeletKeys::make(&self.name.parse()?, None)?;
        self.requests = Some(keys.requests);
        Ok(self)
    }

    /// Joins with a blank disk.
    pub(crate) fn join(&mut self) -> Result<()> {
        let accepted = self.dial(AdmissionPath::Join)?;
        let answer: join::RegisterDiskResponse =
            accepted.call("RegisterDisk", &join::RegisterDiskRequest {})?;
        let disk: DiskId = answer.try_into()?;
        let request = JoinTicketRequest {
            disk,
            node_name: self.name.parse()?,
            role: Role::Worker,
            certificate_requests: self.requests.clone(),
        };
        let request = join::IssueJoinTicketRequest::from(request);
        let _: join::IssueJoinTicketResponse = accepted.call("IssueJoinTicket", &request)?;
        accepted.commit(disk, Generation(1))?;
        self.disk = Some(disk);
        Ok(())
    }

    /// One ticket: connection, handshake with all that its kind of evidence takes, rejoin, the
    /// key opened, Commit acknowledged. A boot of its own: another sealing key each time.
    pub(crate) fn rejoin(&self) -> Result<()> {
        let accepted = self.dial(AdmissionPath::Rejoin)?;
        let disk = self.disk.context("the node has not joined")?;
        let generation = accepted.request(disk, self.requests.clone())?;
        accepted.commit(disk, Generation(generation.0 + 1))
    }

    /// An accepted channel for a rejoin, nothing asked yet.
    pub(crate) fn accepted(&self) -> Result<(Accepted, DiskId)> {
        let disk = self.disk.context("the node has not joined")?;
        Ok((self.dial(AdmissionPath::Rejoin)?, disk))
    }

    fn dial(&self, path: AdmissionPath) -> Result<Accepted> {
        let sealing_key = SealingKey::generate()?;
        let terms = AttesterTerms {
            owner: self.site.owner,
            claim: self.machine.claim(),
            sealing_key: sealing_key.public_key(),
        };
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce)?;
        let start = Start {
            nonce,
            deadline: PATIENCE,
        };
        let mut stream = TcpStream::connect(self.site.address)?;
        stream.set_nodelay(true)?;
        let mut session = AttesterSession::connect(&self.end, start, terms, path)?;
        let begun = Instant::now();
        loop {
            let progress = session.step(begun.elapsed());
            while session.wants_write() {
                session.write_tls(&mut stream)?;
            }
            match progress? {
                AttesterProgress::Established => break,
                AttesterProgress::NeedEvidence(request) => {
                    session.supply_evidence(Ok(self.machine.attest(&request)?))?;
                }
                AttesterProgress::Pending => {
                    session.read_tls(&mut stream)?;
                }
            }
        }
        Ok(Accepted {
            client: RpcClient::new(session.into_channel()?, stream, PATIENCE),
            sealing_key,
        })
    }
}

impl Accepted {
    /// Asks for the key of a joined disk and opens it; gives the recorded generation.
    pub(crate) fn request_key(&self, disk: DiskId) -> Result<Generation> {
        self.request(disk, None)
    }

    fn request(&self, disk: DiskId, requests: Option<CertificateRequests>) -> Result<Generation> {
        let certified = requests.is_some();
        let request = join::IssueRejoinTicketRequest::from(RejoinTicketRequest {
            disk,
            key_version: KeyVersion::FIRST,
            certificate_requests: requests,
        });
        let answer: join::IssueRejoinTicketResponse = self.call("IssueRejoinTicket", &request)?;
        let ticket = RejoinTicket::try_from(answer)?;
        self.sealing_key
            .open_data_key(&ticket.data_key, self.client.peer().binding())?;
        ensure!(
            ticket.material.is_some() == certified,
            "a ticket with certificates, or without, that was not asked for"
        );
        Ok(ticket.generation)
    }

    fn commit(&self, disk: DiskId, generation: Generation) -> Result<()> {
        let request = join::CommitRequest::from(CommitRequest { disk, generation });
        let answer: join::CommitResponse = self.call("Commit", &request)?;
        ensure!(answer.generation == generation.0, "another generation");
        Ok(())
    }

    fn call<R: prost::Message + Default>(
        &self,
        method: &str,
        request: &impl prost::Message,
    ) -> Result<R> {
        let method = format!("constellation.join.v1.JoinService/{method}");
        Ok(self.client.call(&method, request)?)
    }
}
