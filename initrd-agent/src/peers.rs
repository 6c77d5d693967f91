//! The connections of one boot: one `poll(2)` loop over sessions that are dialled and accepted.
//!
//! Endpoints are tried in parallel, at most eight at a time; at most four pushes are heard. A
//! session has a deadline as a whole, however slowly its peer sends. The attester works for one session
//! at a time because the loop does. The first channel ends the loop and every other session.

mod peer;

pub use peer::PeerError;

use crate::{
    attest::{Attest, AttestError},
    console::step,
    exit::{ExitReason, chain},
    targets::Targets,
};
use api::Class;
use attested_tls::{
    Attestation, AttesterTerms, Channel, EvidenceRequest, ProvenAdmitter, SessionError, TlsEnd,
};
use evidence::{AdmissionPath, Side};
use peer::{Peer, Progress};
use platform::random::{self, RandomError};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use std::{
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

/// Sessions under way at a time: what a flood of endpoints or pushes costs at most.
const MAX_DIALLED: usize = 8;
const MAX_ACCEPTED: usize = 4;

/// What a push may ask for, where the state of the disk leaves room for it.
const PUSHED: [AdmissionPath; 2] = [AdmissionPath::Init, AdmissionPath::Recover];

/// Where a push is heard.
pub const PUSH_PORT: u16 = 30091;

/// A channel and the connection under it.
#[derive(Debug)]
pub struct Admitted {
    /// The channel.
    pub channel: Channel<ProvenAdmitter>,
    /// Its connection, blocking.
    pub stream: TcpStream,
    /// Its peer.
    pub address: SocketAddr,
}

/// How a turn of the loop ended.
#[derive(Debug)]
#[must_use]
pub enum Outcome {
    /// A channel stands.
    Admitted(Box<Admitted>),
    /// The time given is over.
    Elapsed,
    /// A peer that acts for the owner refused this node, finally.
    Refused(SessionError),
}

/// The loop itself failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// This boot gets no evidence any more.
    #[error("make evidence")]
    Evidence {
        /// The row of the exit table.
        reason: ExitReason,
        /// What failed.
        #[source]
        source: AttestError,
    },
    /// No socket to hear pushes on.
    #[error("listen for a push")]
    Listen(#[source] io::Error),
    /// No random bytes for jitter.
    #[error("draw jitter")]
    Random(#[source] RandomError),
    /// Waiting for the sockets failed.
    #[error("wait for peers")]
    Wait(#[source] Errno),
}

impl PeersError {
    /// The row of the exit table.
    #[must_use]
    pub const fn exit_reason(&self) -> ExitReason {
        match self {
            Self::Evidence { reason, .. } => *reason,
            Self::Listen(_) | Self::Random(_) | Self::Wait(_) => ExitReason::Network,
        }
    }
}

/// All connections, and what their sessions need.
#[derive(Debug)]
pub struct Peers {
    end: TlsEnd,
    terms: AttesterTerms,
    clock: Instant,
    targets: Targets,
    peers: Vec<Peer>,
    listener: Option<TcpListener>,
    reported: Reported,
}

/// When the end of a pushed session is worth a line: once a second, because anybody can push, and a
/// line takes its time on a serial console while no session moves.
#[derive(Debug, Default)]
struct Reported {
    next: Duration,
}

impl Reported {
    const PAUSE: Duration = Duration::from_secs(1);

    fn admit(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now.saturating_add(Self::PAUSE);
        }
        due
    }
}

impl Peers {
    /// No connection yet; sessions will show `terms`.
    #[must_use]
    pub fn new(end: TlsEnd, terms: AttesterTerms) -> Self {
        Self {
            end,
            terms,
            clock: Instant::now(),
            targets: Targets::default(),
            peers: Vec::new(),
            listener: None,
            reported: Reported::default(),
        }
    }

    /// Says whom to dial from now on.
    pub fn dial(&mut self, addresses: &[SocketAddr]) {
        self.targets.set(addresses, self.clock.elapsed());
    }

    /// Listens for pushes on `port`, over IPv4 and IPv6; gives the port.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn listen(&mut self, port: u16) -> Result<u16, PeersError> {
        // Without IPv6 in the kernel the unspecified IPv4 address is all there is.
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", port)))
            .map_err(PeersError::Listen)?;
        listener.set_nonblocking(true).map_err(PeersError::Listen)?;
        let port = listener.local_addr().map_err(PeersError::Listen)?.port();
        self.listener = Some(listener);
        Ok(port)
    }

    /// Dials and accepts until a channel stands, a refusal is final or `time` is over. Sessions that
    /// are under way go on in the next call.
    ///
    /// # Errors
    /// [`PeersError`] for the loop itself; a failing peer is reported and tried again.
    pub fn run(
        &mut self,
        attester: &mut impl Attest,
        paths: &[AdmissionPath],
        time: Duration,
    ) -> Result<Outcome, PeersError> {
        let until = self.clock.elapsed().saturating_add(time);
        loop {
            self.dial_due(paths)?;
            self.accept_waiting(paths)?;
            if let Some(outcome) = self.advance_all(attester)? {
                // Whoever lost the race is dialled again only if the winner's channel fails.
                for peer in self.peers.drain(..) {
                    self.targets.release(peer.address, self.clock.elapsed());
                }
                return Ok(outcome);
            }
            let now = self.clock.elapsed();
            if now >= until {
                return Ok(Outcome::Elapsed);
            }
            self.wait(paths, until.saturating_sub(now))?;
        }
    }

    fn count(&self, dialled: bool) -> usize {
        self.peers
            .iter()
            .filter(|peer| peer.dialled == dialled)
            .count()
    }

    fn dial_due(&mut self, paths: &[AdmissionPath]) -> Result<(), PeersError> {
        let Some(&path) = paths.iter().find(|path| path.attester() == Side::Client) else {
            return Ok(());
        };
        while self.count(true) < MAX_DIALLED {
            let now = self.clock.elapsed();
            let Some(address) = self.targets.dial(now) else {
                break;
            };
            let dialled = start(now).and_then(|start| {
                Peer::dial(address, (now, start), |start| {
                    attested_tls::AttesterSession::connect(
                        &self.end,
                        start,
                        self.terms.clone(),
                        path,
                    )
                })
            });
            match dialled {
                Ok(peer) => self.peers.push(peer),
                Err(error) => self.end_of(address, true, &error)?,
            }
        }
        Ok(())
    }

    fn accept_waiting(&mut self, paths: &[AdmissionPath]) -> Result<(), PeersError> {
        let pushed = pushed(paths);
        while self.hears(paths) {
            let Some(Ok((stream, address))) = self.listener.as_ref().map(TcpListener::accept)
            else {
                // Nobody waits, or who waited has left.
                break;
            };
            let now = self.clock.elapsed();
            let accepted = start(now).and_then(|start| {
                Peer::accepted((stream, address), (now, start), |start| {
                    attested_tls::AttesterSession::accept(
                        &self.end,
                        start,
                        self.terms.clone(),
                        &pushed,
                    )
                })
            });
            match accepted {
                Ok(peer) => self.peers.push(peer),
                Err(error) => self.end_of(address, false, &error)?,
            }
        }
        Ok(())
    }

    /// Moves every session as far as it goes now.
    fn advance_all(&mut self, attester: &mut impl Attest) -> Result<Option<Outcome>, PeersError> {
        let mut index = 0;
        while let Some(peer) = self.peers.get_mut(index) {
            match peer.advance(self.clock.elapsed()) {
                Ok(Progress::Waiting) => index += 1,
                Ok(Progress::Attest(request)) => {
                    let evidence = evidence(attester, &request)?;
                    if let Err(error) = peer.supply(evidence) {
                        self.drop_peer(index, &error)?;
                    }
                }
                Ok(Progress::Established) => {
                    let peer = self.peers.swap_remove(index);
                    let (dialled, address) = (peer.dialled, peer.address);
                    match peer.into_admitted() {
                        Ok(admitted) => return Ok(Some(Outcome::Admitted(Box::new(admitted)))),
                        Err(error) => self.end_of(address, dialled, &error)?,
                    }
                }
                Err(PeerError::Session(error)) if error.is_final_for_attester() => {
                    return Ok(Some(Outcome::Refused(error)));
                }
                Err(error) => self.drop_peer(index, &error)?,
            }
        }
        Ok(None)
    }

    fn drop_peer(&mut self, index: usize, error: &PeerError) -> Result<(), PeersError> {
        let peer = self.peers.swap_remove(index);
        self.end_of(peer.address, peer.dialled, error)
    }

    /// Reports an attempt that ended and plans the next one.
    fn end_of(
        &mut self,
        address: SocketAddr,
        dialled: bool,
        error: &PeerError,
    ) -> Result<(), PeersError> {
        if dialled || self.reported.admit(self.clock.elapsed()) {
            step("peer")
                .with("address", address)
                .with("dialled", if dialled { "yes" } else { "no" })
                .with("class", error.class())
                .with_text("error", &chain(error))
                .end();
        }
        if dialled {
            self.put_off(address)?;
        }
        Ok(())
    }

    /// Plans the next attempt on an address after a pause, also when it was its channel that failed.
    ///
    /// # Errors
    /// [`PeersError::Random`].
    pub fn put_off(&mut self, address: SocketAddr) -> Result<(), PeersError> {
        let random = random::array().map_err(PeersError::Random)?;
        let now = self.clock.elapsed();
        self.targets.ended(address, now, u32::from_ne_bytes(random));
        Ok(())
    }

    /// Whether a push may come in now; else it waits in the kernel's backlog, unseen.
    fn hears(&self, paths: &[AdmissionPath]) -> bool {
        !pushed(paths).is_empty() && self.count(false) < MAX_ACCEPTED
    }

    fn wait(&self, paths: &[AdmissionPath], longest: Duration) -> Result<(), PeersError> {
        let now = self.clock.elapsed();
        let peers = self.peers.iter().map(Peer::deadline);
        let due = peers
            .chain(
                self.targets
                    .deadline()
                    .filter(|_| self.count(true) < MAX_DIALLED),
            )
            .map(|deadline| deadline.saturating_sub(now))
            .fold(longest, Duration::min);
        let mut fds: Vec<_> = self.peers.iter().map(Peer::poll_fd).collect();
        // A listener that nobody accepts from would be ready for ever, and this loop would spin.
        if self.hears(paths) {
            let listener = self.listener.iter();
            fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        }
        // Rounded up, so that a deadline has passed when the call returns.
        let timeout = Timespec::try_from(due + Duration::from_millis(1)).unwrap_or_default();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(PeersError::Wait(error)),
        }
    }
}

/// Those of `paths` that a push may ask for.
fn pushed(paths: &[AdmissionPath]) -> Vec<AdmissionPath> {
    let mut pushed = PUSHED.to_vec();
    pushed.retain(|path| paths.contains(path));
    pushed
}

/// Evidence for one session, or its end; an error is the end of this boot.
fn evidence(
    attester: &mut impl Attest,
    request: &EvidenceRequest,
) -> Result<Result<Attestation, Class>, PeersError> {
    attester.attest(request).map(Ok).or_else(|source| {
        if let Some(reason) = source.exit_reason() {
            return Err(PeersError::Evidence { reason, source });
        }
        step("attest").with_text("error", &chain(&source)).end();
        Ok(Err(source.class()))
    })
}

/// What a session starts with.
fn start(now: Duration) -> Result<attested_tls::Start, PeerError> {
    Ok(attested_tls::Start {
        nonce: random::array().map_err(PeerError::Random)?,
        deadline: now.saturating_add(peer::SESSION_TIME),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_pushes_is_a_line_a_second() {
        let mut reported = Reported::default();
        let lines = (0..5000).filter(|millis| reported.admit(Duration::from_millis(*millis)));
        assert_eq!(lines.count(), 5);
    }
}
