//! A node as the service sees it: the attester's side of a real session, over a real socket.

use api::{
    Class, CommitRequest, JoinTicket, JoinTicketRequest, RejoinTicket, RejoinTicketRequest, join,
};
use attested_tls::{
    ActivatedSecret, Attestation, AttesterProgress, AttesterSession, AttesterTerms,
    EvidenceRequest, RpcClient, RpcError, SealingKey, SessionError, Start, TlsEnd,
};
use evidence::{AdmissionPath, AttesterClaim, Binding, Evidence, SnpEvidence, TpmIdentity};
use identity::{DiskId, Generation, KeyVersion, Role};
use owner::{AkCertificate, ExpectedKey, OwnerFingerprint};
use platform::tpm::{TpmAttester, Transport};
use software_snp::{Leaf, ReportFields};
use software_tpm::{Connection, SoftwareTpm, keys::KeyTpm};
use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A machine in one boot: its TPM and its sealing key.
#[derive(Clone)]
pub(crate) struct Machine {
    tpm: Arc<Mutex<Tpm>>,
    sealing_key: Arc<SealingKey>,
    claimed: Option<TpmIdentity>,
}

enum Tpm {
    Keys(KeyTpm),
    Software(TpmAttester),
    /// A bare guest has none: it has reports.
    None(Box<Guest>),
}

/// A SEV-SNP guest: what its reports say, the key that signs them, and what its host hands out.
pub(crate) struct Guest {
    pub(crate) report: ReportFields,
    pub(crate) key: Leaf,
    pub(crate) certificates: Vec<u8>,
}

impl Guest {
    fn attest(&self, binding: &Binding) -> Evidence {
        let report = ReportFields {
            report_data: *binding.as_bytes(),
            ..self.report.clone()
        };
        Evidence::SevSnp(SnpEvidence {
            report: report.signed_by(&self.key).unwrap().to_vec(),
            certificates: self.certificates.clone(),
        })
    }
}

struct Wire(Connection);

impl Transport for Wire {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0.transact(command)
    }
}

impl Machine {
    pub(crate) fn keys(tpm: KeyTpm) -> Self {
        Self::boot(Arc::new(Mutex::new(Tpm::Keys(tpm))))
    }

    /// A SEV-SNP guest in one boot.
    pub(crate) fn guest(guest: Guest) -> Self {
        Self::boot(Arc::new(Mutex::new(Tpm::None(Box::new(guest)))))
    }

    /// A real software TPM, in the boot that begins now.
    pub(crate) fn software(tpm: &SoftwareTpm) -> Self {
        let wire = Box::new(Wire(tpm.connect().unwrap()));
        let attester = TpmAttester::start(wire, Vec::new()).unwrap();
        Self::boot(Arc::new(Mutex::new(Tpm::Software(attester))))
    }

    fn boot(tpm: Arc<Mutex<Tpm>>) -> Self {
        Self {
            tpm,
            sealing_key: Arc::new(SealingKey::generate().unwrap()),
            claimed: None,
        }
    }

    /// This machine, lying: it shows the endorsement key of `victim`.
    pub(crate) fn claiming(&self, victim: &Self) -> Self {
        let own = self.identity();
        Self {
            claimed: Some(TpmIdentity {
                ak_public: own.ak_public,
                ..victim.identity()
            }),
            ..self.clone()
        }
    }

    /// The same machine after a reboot: another sealing key.
    pub(crate) fn reboot(&self) -> Self {
        Self::boot(Arc::clone(&self.tpm))
    }

    /// Another launch of the same guest.
    pub(crate) fn relaunch(&self, report_id: [u8; 32]) -> Self {
        if let Tpm::None(guest) = &mut *self.tpm.lock().unwrap() {
            guest.report.report_id = report_id;
        }
        self.reboot()
    }

    pub(crate) fn set_pcr(&self, pcr: u32, value: [u8; 32]) {
        match &mut *self.tpm.lock().unwrap() {
            Tpm::Keys(tpm) => {
                tpm.pcrs.insert(pcr, value);
            }
            Tpm::Software(tpm) => tpm.extend(pcr, &value).unwrap(),
            Tpm::None(_) => panic!("a bare guest has no PCRs"),
        }
    }

    fn identity(&self) -> TpmIdentity {
        if let Some(claimed) = &self.claimed {
            return claimed.clone();
        }
        match &*self.tpm.lock().unwrap() {
            Tpm::Keys(tpm) => tpm.identity().clone(),
            Tpm::Software(tpm) => tpm.identity().clone(),
            Tpm::None(_) => panic!("a bare guest has no TPM"),
        }
    }

    fn claim(&self) -> AttesterClaim {
        match &*self.tpm.lock().unwrap() {
            Tpm::None(_) => return AttesterClaim::SevSnp,
            Tpm::Keys(_) | Tpm::Software(_) => {}
        }
        AttesterClaim::Tpm(self.identity())
    }

    fn attest(&self, request: &EvidenceRequest) -> Attestation {
        let data = request.binding.qualifying_data();
        let challenge = request.challenge.as_ref();
        let (activated, quote) = match &mut *self.tpm.lock().unwrap() {
            Tpm::Keys(tpm) => (
                match &self.claimed {
                    Some(_) => vec![0; 32],
                    None => tpm.activate(challenge.unwrap()).unwrap().to_vec(),
                },
                tpm.quote(&data, &request.pcrs).unwrap(),
            ),
            Tpm::Software(tpm) => (
                tpm.activate(challenge.unwrap()).unwrap().to_vec(),
                tpm.quote(&data, &request.pcrs).unwrap(),
            ),
            Tpm::None(guest) => {
                return Attestation {
                    activated: None,
                    evidence: guest.attest(&request.binding),
                };
            }
        };
        Attestation {
            activated: Some(ActivatedSecret::from_slice(&activated).unwrap()),
            evidence: Evidence::Tpm(quote),
        }
    }
}

/// An established channel of a node.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) client: Arc<RpcClient>,
    pub(crate) sealing_key: Arc<SealingKey>,
    claim: AttesterClaim,
    owner: OwnerFingerprint,
}

impl Node {
    pub(crate) async fn dial(
        address: SocketAddr,
        machine: &Machine,
        owner: OwnerFingerprint,
        path: AdmissionPath,
    ) -> Result<Self, SessionError> {
        let machine = machine.clone();
        tokio::task::spawn_blocking(move || Self::handshake(address, &machine, owner, path))
            .await
            .unwrap()
    }

    fn handshake(
        address: SocketAddr,
        machine: &Machine,
        owner: OwnerFingerprint,
        path: AdmissionPath,
    ) -> Result<Self, SessionError> {
        let stream = TcpStream::connect(address).unwrap();
        Self::handshake_over(stream, machine, owner, path)
    }

    /// The handshake over a connection that stands, from a thread that may block.
    pub(crate) fn handshake_over(
        mut stream: TcpStream,
        machine: &Machine,
        owner: OwnerFingerprint,
        path: AdmissionPath,
    ) -> Result<Self, SessionError> {
        let terms = AttesterTerms {
            owner,
            claim: machine.claim(),
            sealing_key: machine.sealing_key.public_key(),
        };
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).unwrap();
        let start = Start {
            nonce,
            deadline: Duration::from_secs(30),
        };
        let end = TlsEnd::generate().unwrap();
        let mut session = AttesterSession::connect(&end, start, terms, path)?;
        let begun = Instant::now();
        loop {
            let progress = session.step(begun.elapsed());
            while session.wants_write() {
                if session.write_tls(&mut stream).is_err() {
                    return Err(SessionError::Closed);
                }
            }
            match progress? {
                AttesterProgress::Established => break,
                AttesterProgress::NeedEvidence(request) => {
                    session.supply_evidence(Ok(machine.attest(&request)))?;
                }
                AttesterProgress::Pending => {
                    if session.read_tls(&mut stream).is_err() {
                        return Err(SessionError::Closed);
                    }
                }
            }
        }
        let limit = Duration::from_secs(30);
        Ok(Self {
            client: Arc::new(RpcClient::new(session.into_channel()?, stream, limit)),
            sealing_key: Arc::clone(&machine.sealing_key),
            claim: machine.claim(),
            owner,
        })
    }

    pub(crate) async fn call<Q, R>(&self, method: &'static str, request: Q) -> Result<R, RpcError>
    where
        Q: prost::Message + 'static,
        R: prost::Message + Default + 'static,
    {
        let client = Arc::clone(&self.client);
        let method = format!("constellation.join.v1.JoinService/{method}");
        tokio::task::spawn_blocking(move || client.call(&method, &request))
            .await
            .unwrap()
    }

    pub(crate) async fn register(&self) -> DiskId {
        let answer: join::RegisterDiskResponse = self
            .call("RegisterDisk", join::RegisterDiskRequest {})
            .await
            .unwrap();
        answer.try_into().unwrap()
    }

    /// The disk's key.
    pub(crate) async fn join_as(
        &self,
        disk: DiskId,
        name: &str,
        role: Role,
    ) -> Result<Vec<u8>, Class> {
        let request = JoinTicketRequest {
            disk,
            node_name: name.parse().unwrap(),
            role,
            certificate_requests: None,
        };
        let request = join::IssueJoinTicketRequest::from(request);
        let answer: join::IssueJoinTicketResponse = self
            .call("IssueJoinTicket", request)
            .await
            .map_err(|error| error.class())?;
        let ticket = JoinTicket::try_from(answer).unwrap();
        assert_eq!(ticket.cluster_id, crate::setup::CLUSTER);
        assert_eq!(ticket.key_version, KeyVersion::FIRST);
        self.check_certificate(ticket.ak_certificate.as_deref(), disk, name);
        Ok(self.open(&ticket.data_key))
    }

    pub(crate) async fn join(&self, disk: DiskId, name: &str) -> Result<Vec<u8>, Class> {
        self.join_as(disk, name, Role::Worker).await
    }

    /// The disk's key, the recorded generation and name.
    pub(crate) async fn rejoin(&self, disk: DiskId) -> Result<(Vec<u8>, u64, String), Class> {
        let request = RejoinTicketRequest {
            disk,
            key_version: KeyVersion::FIRST,
            certificate_requests: None,
        };
        let request = join::IssueRejoinTicketRequest::from(request);
        let answer: join::IssueRejoinTicketResponse = self
            .call("IssueRejoinTicket", request)
            .await
            .map_err(|error| error.class())?;
        let ticket = RejoinTicket::try_from(answer).unwrap();
        let name = ticket.node_name.to_string();
        self.check_certificate(ticket.ak_certificate.as_deref(), disk, &name);
        Ok((self.open(&ticket.data_key), ticket.generation.0, name))
    }

    pub(crate) async fn commit(&self, disk: DiskId, generation: u64) -> Result<u64, Class> {
        let request = CommitRequest {
            disk,
            generation: Generation(generation),
        };
        let request = join::CommitRequest::from(request);
        let answer: join::CommitResponse = self
            .call("Commit", request)
            .await
            .map_err(|error| error.class())?;
        Ok(answer.generation)
    }

    /// Every ticket of a TPM certifies the key of its own session, and no other ticket certifies any.
    fn check_certificate(&self, certificate: Option<&str>, disk: DiskId, name: &str) {
        let AttesterClaim::Tpm(identity) = &self.claim else {
            assert_eq!(certificate, None);
            return;
        };
        let certificate = AkCertificate::parse(certificate.unwrap().as_bytes()).unwrap();
        let digest = |bytes: &[u8]| -> [u8; 32] {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
            digest.as_ref().try_into().unwrap()
        };
        // The name of a key: its algorithm and the digest of its public area.
        let ek_name = [&[0, 0x0b][..], &digest(&identity.ek_public)].concat();
        let expected = ExpectedKey {
            attestation_key: &digest(&identity.ak_public),
            attester: &digest(&ek_name),
            cluster: &crate::setup::CLUSTER,
            node: &name.parse().unwrap(),
        };
        certificate.verify(&self.owner, &expected).unwrap();
        assert_eq!(certificate.key.disk, disk);
        // The service has no owner key.
        assert!(certificate.admission_key.is_some());
    }

    fn open(&self, sealed: &api::SealedSecret) -> Vec<u8> {
        let binding = self.client.peer().binding();
        let key = self.sealing_key.open_data_key(sealed, binding).unwrap();
        key.expose_secret().to_vec()
    }
}
