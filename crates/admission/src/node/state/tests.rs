use super::*;
use alloc::{vec, vec::Vec};

const DISK: DiskId = DiskId::from_bytes([7; 16]);
const OTHER: DiskId = DiskId::from_bytes([8; 16]);
const HEADER: DiskState = DiskState::Header {
    disk: DISK,
    key_version: KeyVersion::FIRST,
};

/// Feeds events and returns the actions, the first one included.
fn actions(start: DiskState, events: &[Event]) -> Vec<Action> {
    let (mut node, action) = Node::start(start);
    let mut actions = vec![action];
    for event in events {
        let (next, action) = node.handle(*event).unwrap();
        node = next;
        actions.push(action);
    }
    actions
}

fn last(start: DiskState, events: &[Event]) -> Action {
    *actions(start, events).last().unwrap()
}

fn opened(generation: u64, init_unfinished: bool) -> Event {
    Event::Opened(Opened {
        slot: Slot::B,
        generation: Generation(generation),
        init_unfinished,
    })
}

fn refused(class: RefusalClass, owner_proven: bool) -> Event {
    Event::Failed(Failure::Refusal {
        class,
        owner_proven,
    })
}

const fn admitted_on(path: AdmissionPath) -> Event {
    Event::Admitted { path }
}

const fn recorded(generation: u64) -> Event {
    Event::RejoinTicket {
        recorded: Generation(generation),
    }
}

#[test]
fn a_join_commits_before_it_latches() {
    let generation = Generation::FIRST;
    assert_eq!(
        actions(
            DiskState::Blank,
            &[
                admitted_on(Join),
                Event::Registered { disk: DISK },
                Event::JoinTicket,
                Event::Formatted,
                Event::SlotWritten,
                Event::Committed { generation },
                Event::SlotWritten,
                Event::Mapped,
                Event::Latched,
                Event::HandedOff,
            ]
        ),
        [
            Action::Admit {
                paths: &[Join, Init]
            },
            Action::RegisterDisk,
            Action::IssueJoinTicket { disk: DISK },
            Action::Format { disk: DISK },
            Action::WriteSlot {
                slot: Slot::A,
                generation
            },
            Action::Commit {
                disk: DISK,
                generation
            },
            Action::WriteSlot {
                slot: Slot::B,
                generation
            },
            Action::Map,
            Action::Latch,
            Action::HandOff,
            Action::Exec,
        ]
    );
}

#[test]
fn a_rejoin_spares_the_newest_slot() {
    let events = [admitted_on(Rejoin), recorded(4), opened(5, false)];
    assert_eq!(
        last(HEADER, &events),
        Action::WriteSlot {
            slot: Slot::A,
            generation: Generation(6)
        }
    );
}

#[test]
fn headers_that_do_not_fit_their_record_stop_the_node() {
    let on = |path, ticket, event| last(HEADER, &[admitted_on(path), ticket, event]);
    assert_eq!(
        on(Rejoin, recorded(5), opened(4, false)),
        Action::Exit(Exit::HeaderTooOld {
            recorded: Generation(5),
            got: Generation(4)
        })
    );
    assert_eq!(
        on(Recover, recorded(1), Event::NothingOpens),
        Action::Exit(Exit::HeaderUnreadable)
    );
    assert_eq!(
        on(Rejoin, recorded(0), Event::NothingOpens),
        Action::Format { disk: DISK }
    );
    assert_eq!(
        on(Recover, recorded(0), Event::NothingOpens),
        Action::Exit(Exit::HeaderUnreadable),
        "old records of the operator format nothing"
    );
    assert_eq!(
        on(Rejoin, recorded(5), opened(u64::MAX, false)),
        Action::Exit(Exit::GenerationsUsedUp)
    );
}

#[test]
fn init_goes_on_only_with_its_own_unfinished_header() {
    let registered = |disk| [admitted_on(Init), Event::Registered { disk }];
    assert_eq!(
        last(HEADER, &registered(OTHER)),
        Action::Exit(Exit::ForeignInit {
            expected: OTHER,
            got: DISK
        })
    );
    let [admitted, registered] = registered(DISK);
    let on = |event| last(HEADER, &[admitted, registered, Event::JoinTicket, event]);
    assert_eq!(on(opened(1, false)), Action::Exit(Exit::InitFinished));
    assert!(matches!(on(opened(1, true)), Action::WriteSlot { .. }));
    assert_eq!(on(Event::NothingOpens), Action::Format { disk: DISK });
}

#[test]
fn only_a_proven_refusal_is_final() {
    for start in [DiskState::Blank, DiskState::Torn, HEADER] {
        for class in [RefusalClass::Refused, RefusalClass::Malformed] {
            let action = last(start, &[refused(class, true)]);
            assert_eq!(action, Action::Exit(Exit::Refused { class }));
            let action = last(start, &[refused(class, false)]);
            assert!(matches!(action, Action::Admit { .. }));
        }
        for class in [RefusalClass::Unavailable, RefusalClass::Internal] {
            let action = last(start, &[refused(class, true)]);
            assert!(matches!(action, Action::Admit { .. }));
        }
    }
}

#[test]
fn a_lost_commit_is_repeated_on_its_own_path_only() {
    let lost = Event::Failed(Failure::Lost);
    let committing = [
        admitted_on(Rejoin),
        recorded(1),
        opened(1, false),
        Event::SlotWritten,
        lost,
    ];
    assert_eq!(
        last(HEADER, &committing),
        Action::Admit { paths: &[Rejoin] }
    );
    let with = |path| {
        let mut events = committing.to_vec();
        events.push(admitted_on(path));
        last(HEADER, &events)
    };
    assert!(matches!(with(Rejoin), Action::Commit { .. }));
    assert_eq!(with(Recover), Action::Admit { paths: &[Rejoin] });
}

#[test]
fn a_lost_ticket_may_come_from_the_operator() {
    let lost = Event::Failed(Failure::Lost);
    let events = [admitted_on(Rejoin), lost, admitted_on(Recover)];
    assert_eq!(
        last(HEADER, &events),
        Action::IssueRejoinTicket {
            disk: DISK,
            key_version: KeyVersion::FIRST
        }
    );
}

/// The disk id of a boot is kept: the boot claim names it.
#[test]
fn a_lost_join_ticket_asks_for_the_same_disk() {
    let events = [
        admitted_on(Join),
        Event::Registered { disk: DISK },
        Event::Failed(Failure::Lost),
        admitted_on(Join),
    ];
    assert_eq!(
        last(DiskState::Torn, &events),
        Action::IssueJoinTicket { disk: DISK }
    );
}

#[test]
fn starting_over_wipes_first() {
    let events = [
        admitted_on(Rejoin),
        Event::Failed(Failure::StartOver),
        Event::Wiped,
    ];
    assert_eq!(
        actions(HEADER, &events)[2..],
        [Action::Wipe, Action::Exit(Exit::StartOver)]
    );
}

#[test]
fn paths_that_do_not_fit_the_disk_are_not_admitted() {
    for (start, path) in [
        (DiskState::Blank, Rejoin),
        (DiskState::Torn, Recover),
        (HEADER, Join),
    ] {
        let action = last(start, &[admitted_on(path)]);
        assert!(matches!(action, Action::Admit { .. }), "{start:?} {path}");
    }
}

#[test]
fn unexpected_events_are_errors() {
    let (node, _) = Node::start(HEADER);
    for event in [
        Event::Latched,
        Event::HandedOff,
        Event::JoinTicket,
        Event::Committed {
            generation: Generation(1),
        },
    ] {
        assert!(node.clone().handle(event).is_err(), "{event:?}");
    }
}
