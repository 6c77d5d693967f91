//! The part of an admission that talks: getting a channel, and the four calls.

use super::{Attachments, Session, Ticket, Unlock, calls, chain, exits, step};
use crate::{
    calls::{CallsError, refusal_class},
    exit::{ExitReason, Failure},
    kubelet::KubeletKeys,
    peers::{Admitted, Outcome},
};
use admission::node::{Event, Failure as NodeFailure};
use api::{
    CommitRequest, InitTicketRequest, JoinTicket, JoinTicketRequest, RejoinTicket,
    RejoinTicketRequest, SealedSecret,
};
use attested_tls::{RpcClient, SealError, SessionError};
use evidence::AdmissionPath;
use identity::{ClusterId, DiskId, Generation, KeyVersion, NodeName, Role};
use std::time::Duration;

/// How long one call may take; the server writes durably before it answers.
const CALL_TIME: Duration = Duration::from_secs(30);

/// What every ticket gives, two of it sealed.
struct Given<'a> {
    data_key: &'a SealedSecret,
    material: Option<&'a SealedSecret>,
    ak_certificate: Option<&'a String>,
}

impl Unlock<'_> {
    /// Gets a channel on one of `paths`, however long that takes.
    pub(super) fn admit(&mut self, paths: &[AdmissionPath]) -> Result<Event, Failure> {
        // The channel before this one failed; its peer is put off, not left out.
        if let Some(session) = self.session.take() {
            let put_off = self.peers.put_off(session.address);
            put_off.map_err(exits(ExitReason::Network))?;
        }
        let joins = paths.contains(&AdmissionPath::Join);
        loop {
            let (addresses, good_for) = self.machine.way.addresses(joins)?;
            self.peers.dial(&addresses);
            let outcome = self
                .peers
                .run(self.machine.attester, paths, good_for)
                .map_err(|error| exits(error.exit_reason())(error))?;
            match outcome {
                Outcome::Admitted(admitted) => return Ok(self.admitted(*admitted)),
                Outcome::Elapsed => {}
                Outcome::Refused(error) => return Ok(refused(&error)),
            }
        }
    }

    fn admitted(&mut self, admitted: Admitted) -> Event {
        let path = admitted.channel.peer().path();
        step("admitted")
            .with("path", path)
            .with("address", admitted.address)
            .end();
        let local = admitted.stream.local_addr();
        self.session = Some(Session {
            local: local.ok().map(|address| address.ip()),
            client: RpcClient::new(admitted.channel, admitted.stream, CALL_TIME),
            address: admitted.address,
        });
        Event::Admitted { path }
    }

    pub(super) fn register_disk(&mut self) -> Result<Event, Failure> {
        let answer = self.client().map(calls::register_disk);
        Ok(match answer {
            Some(Ok(disk)) => Event::Registered { disk },
            other => failed("register", other),
        })
    }

    /// Asks for the first key of a disk: on an init the operator says name and role, else the hints.
    pub(super) fn join_ticket(&mut self, disk: DiskId) -> Result<Event, Failure> {
        if self.path() == Some(AdmissionPath::Init) {
            return Ok(self.init_ticket(disk));
        }
        let hints = self.machine.way.hints();
        let Some(node_name) = hints.node_name.clone() else {
            // Hints are only ever read again while the name is missing.
            return Err(exits(ExitReason::Panic)(super::Missing("node name")));
        };
        let role = hints.role.unwrap_or(Role::Worker);
        let kubelet = self.kubelet_keys(&node_name)?;
        let request = JoinTicketRequest {
            disk,
            node_name: node_name.clone(),
            role,
            certificate_requests: Some(kubelet.requests.clone()),
        };
        let answer = self
            .client()
            .map(|client| calls::join_ticket(client, request));
        Ok(match answer {
            Some(Ok(ticket)) => {
                let names = (node_name, role);
                self.keep_join(disk, names, &ticket, Some(kubelet))
            }
            other => failed("ticket", other),
        })
    }

    fn init_ticket(&mut self, disk: DiskId) -> Event {
        let request = InitTicketRequest { disk };
        let answer = self
            .client()
            .map(|client| calls::init_ticket(client, request));
        match answer {
            Some(Ok(init)) => {
                let names = (init.node_name, init.role);
                self.keep_join(disk, names, &init.ticket, None)
            }
            other => failed("ticket", other),
        }
    }

    fn keep_join(
        &mut self,
        disk: DiskId,
        names: (NodeName, Role),
        ticket: &JoinTicket,
        kubelet: Option<KubeletKeys>,
    ) -> Event {
        let given = Given {
            data_key: &ticket.data_key,
            material: ticket.material.as_ref(),
            ak_certificate: ticket.ak_certificate.as_ref(),
        };
        let keys = (ticket.cluster_id, ticket.key_version);
        match self.keep(disk, (names, keys), given, kubelet) {
            Some(()) => Event::JoinTicket,
            None => Event::Failed(NodeFailure::Lost),
        }
    }

    /// Asks for the key of a known disk. Its node's name is inside its header, so a service that
    /// pulled this node in is asked to certify the hinted name, and once more if that was not it.
    pub(super) fn rejoin_ticket(
        &mut self,
        disk: DiskId,
        key_version: KeyVersion,
    ) -> Result<Event, Failure> {
        let pulled = self.path() == Some(AdmissionPath::Rejoin);
        let hinted = self.machine.way.hints().node_name.clone();
        let mut kubelet = hinted
            .filter(|_| pulled)
            .map(|name| self.kubelet_keys(&name))
            .transpose()?;
        let mut answer = self.ask_rejoin(disk, key_version, kubelet.as_ref());
        if let Some(Ok(ticket)) = &answer
            && let Some(name) = uncertified(ticket, kubelet.as_ref())
            && pulled
        {
            kubelet = Some(self.kubelet_keys(name)?);
            answer = self.ask_rejoin(disk, key_version, kubelet.as_ref());
        }
        let ticket = match answer {
            Some(Ok(ticket)) => ticket,
            other => return Ok(failed("ticket", other)),
        };
        let given = Given {
            data_key: &ticket.data_key,
            material: ticket.material.as_ref(),
            ak_certificate: ticket.ak_certificate.as_ref(),
        };
        let names = (ticket.node_name.clone(), ticket.role);
        let keys = (ticket.cluster_id, key_version);
        Ok(match self.keep(disk, (names, keys), given, kubelet) {
            Some(()) => Event::RejoinTicket {
                recorded: ticket.generation,
            },
            None => Event::Failed(NodeFailure::Lost),
        })
    }

    fn ask_rejoin(
        &self,
        disk: DiskId,
        key_version: KeyVersion,
        kubelet: Option<&KubeletKeys>,
    ) -> Option<Result<RejoinTicket, CallsError>> {
        let request = RejoinTicketRequest {
            disk,
            key_version,
            certificate_requests: kubelet.map(|kubelet| kubelet.requests.clone()),
        };
        self.client()
            .map(|client| calls::rejoin_ticket(client, request))
    }

    pub(super) fn commit(
        &mut self,
        disk: DiskId,
        generation: Generation,
    ) -> Result<Event, Failure> {
        let request = CommitRequest { disk, generation };
        let answer = self.client().map(|client| calls::commit(client, request));
        Ok(match answer {
            Some(Ok(recorded)) if recorded >= generation => {
                step("commit").with("generation", recorded).end();
                Event::Committed {
                    generation: recorded,
                }
            }
            // An acknowledgement of something older acknowledges nothing.
            Some(Ok(_)) => Event::Failed(NodeFailure::Lost),
            other => failed("commit", other),
        })
    }

    fn client(&self) -> Option<&RpcClient> {
        self.session.as_ref().map(|session| &session.client)
    }

    fn path(&self) -> Option<AdmissionPath> {
        self.client().map(|client| client.peer().path())
    }

    fn kubelet_keys(&self, name: &NodeName) -> Result<KubeletKeys, Failure> {
        let local = self.session.as_ref().and_then(|session| session.local);
        KubeletKeys::make(name, local).map_err(exits(ExitReason::Panic))
    }

    /// Opens what is sealed in a ticket and keeps all of it. What is sealed to another channel or
    /// process is nothing; the server may do better. Keys without certificates are dropped.
    fn keep(
        &mut self,
        disk: DiskId,
        ((node_name, role), (cluster, key_version)): ((NodeName, Role), (ClusterId, KeyVersion)),
        given: Given<'_>,
        kubelet: Option<KubeletKeys>,
    ) -> Option<()> {
        let peer = self.client()?.peer();
        let path = peer.path();
        let unsealable = |error: SealError| report("ticket", &error);
        let open = |sealed| self.sealing_key.open_data_key(sealed, peer.binding());
        let data_key = open(given.data_key).map_err(unsealable).ok()?;
        let open = |sealed| self.sealing_key.open_material(sealed, peer.binding());
        let material = given
            .material
            .map(open)
            .transpose()
            .map_err(unsealable)
            .ok()?;
        step("ticket")
            .with("path", path)
            .with("disk", disk)
            .with("node_name", &node_name)
            .with("role", role)
            .end();
        let kubelet_keys = kubelet.filter(|_| material.is_some());
        self.ticket = Some(Ticket {
            path,
            cluster,
            key_version,
            node_name,
            role,
            data_key,
            attachments: Attachments {
                material,
                kubelet_keys: kubelet_keys.map(|kubelet| kubelet.keys),
            },
            ak_certificate: given.ak_certificate.cloned(),
        });
        Some(())
    }
}

/// The name to ask certificates for, of a ticket that may lack them only because it was not asked
/// for this one.
fn uncertified<'a>(ticket: &'a RejoinTicket, asked: Option<&KubeletKeys>) -> Option<&'a NodeName> {
    let name = &ticket.node_name;
    let asked = asked.is_some_and(|kubelet| kubelet.name == *name);
    (ticket.material.is_none() && !asked).then_some(name)
}

/// What a call that gave no answer means; without a session it was never made.
fn failed<T>(name: &str, answer: Option<Result<T, CallsError>>) -> Event {
    match answer {
        Some(Err(error)) => {
            report(name, &error);
            Event::Failed(error.failure())
        }
        _ => Event::Failed(NodeFailure::Lost),
    }
}

fn refused(error: &SessionError) -> Event {
    report("refused", error);
    Event::Failed(NodeFailure::Refusal {
        class: refusal_class(error.class()),
        owner_proven: true,
    })
}

fn report(name: &str, error: &dyn std::error::Error) {
    step(name).with_text("error", &chain(error)).end();
}

#[cfg(test)]
mod tests;
