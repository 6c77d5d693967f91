//! The part of an admission that talks: getting a channel, and the four calls.

use super::{Session, Ticket, Unlock, calls, chain, exits, step};
use crate::{
    calls::{CallsError, refusal_class},
    exit::{ExitReason, Failure},
    peers::{Admitted, Outcome},
};
use admission::node::{Event, Failure as NodeFailure};
use api::{CommitRequest, JoinTicketRequest, RejoinTicketRequest, SealedSecret};
use attested_tls::{RpcClient, SealError, SessionError};
use evidence::AdmissionPath;
use identity::{DiskId, Generation, KeyVersion, NodeName, Role};
use secret::DataKey;
use std::time::Duration;

/// How long one call may take; the server writes durably before it answers.
const CALL_TIME: Duration = Duration::from_secs(30);

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
            let (addresses, good_for) = self.guide.addresses(joins)?;
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
        self.session = Some(Session {
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

    pub(super) fn join_ticket(&mut self, disk: DiskId) -> Result<Event, Failure> {
        let hints = self.guide.hints();
        let Some(node_name) = hints.node_name.clone() else {
            // Hints are only ever read again while the name is missing.
            return Err(exits(ExitReason::Panic)(super::Missing("node name")));
        };
        let role = hints.role.unwrap_or(Role::Worker);
        let request = JoinTicketRequest {
            disk,
            node_name: node_name.clone(),
            role,
            certificate_requests: None,
        };
        let answer = self
            .client()
            .map(|client| calls::join_ticket(client, request));
        let ticket = match answer {
            Some(Ok(ticket)) => ticket,
            other => return Ok(failed("ticket", other)),
        };
        let Some(data_key) = self.open_key(&ticket.data_key) else {
            return Ok(Event::Failed(NodeFailure::Lost));
        };
        self.keep(disk, (node_name, role), |path, (node_name, role)| Ticket {
            path,
            cluster: ticket.cluster_id,
            key_version: ticket.key_version,
            node_name,
            role,
            data_key,
        });
        Ok(Event::JoinTicket)
    }

    pub(super) fn rejoin_ticket(
        &mut self,
        disk: DiskId,
        key_version: KeyVersion,
    ) -> Result<Event, Failure> {
        let request = RejoinTicketRequest {
            disk,
            key_version,
            certificate_requests: None,
        };
        let answer = self
            .client()
            .map(|client| calls::rejoin_ticket(client, request));
        let ticket = match answer {
            Some(Ok(ticket)) => ticket,
            other => return Ok(failed("ticket", other)),
        };
        let Some(data_key) = self.open_key(&ticket.data_key) else {
            return Ok(Event::Failed(NodeFailure::Lost));
        };
        let recorded = ticket.generation;
        let names = (ticket.node_name, ticket.role);
        self.keep(disk, names, |path, (node_name, role)| Ticket {
            path,
            cluster: ticket.cluster_id,
            key_version,
            node_name,
            role,
            data_key,
        });
        Ok(Event::RejoinTicket { recorded })
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

    fn keep(
        &mut self,
        disk: DiskId,
        names: (NodeName, Role),
        ticket: impl FnOnce(AdmissionPath, (NodeName, Role)) -> Ticket,
    ) {
        let Some(client) = self.client() else { return };
        let path = client.peer().path();
        step("ticket")
            .with("path", path)
            .with("disk", disk)
            .with("node_name", &names.0)
            .with("role", names.1)
            .end();
        self.ticket = Some(ticket(path, names));
    }

    /// A key that is sealed to another channel or process is no key; the server may do better.
    fn open_key(&self, sealed: &SealedSecret) -> Option<DataKey> {
        let binding = self.client()?.peer().binding();
        let opened = self.sealing_key.open_data_key(sealed, binding);
        opened
            .map_err(|error: SealError| report("ticket", &error))
            .ok()
    }
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
