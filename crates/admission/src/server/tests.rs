use super::*;
use crate::{
    ControlPlaneEntry, Grant, NodeRecord, RecordState, Release, Timestamp, TombstoneCause,
    Unsettled, refusal::RefusalClass, settle, store::InitEntry,
};
use alloc::{collections::BTreeMap, format, string::String};
use appraisal::AttesterIdentity;
use identity::{Generation, KeyVersion, NodeName};

extern crate std;

const D1: DiskId = DiskId::from_bytes([1; 16]);
const D2: DiskId = DiskId::from_bytes([2; 16]);
const D3: DiskId = DiskId::from_bytes([3; 16]);

/// A store that applies everything at once.
#[derive(Default)]
struct Store(BTreeMap<Key, Value>);

impl Store {
    fn drive(
        &mut self,
        decide: impl Fn(&Snapshot) -> Result<Step, Refusal>,
    ) -> Result<Grant, Refusal> {
        match settle(&mut self.0, decide) {
            Ok(plan) => Ok(plan.persisted().audited()),
            Err(Unsettled::Refused(refusal)) => Err(refusal),
            Err(Unsettled::Store(never)) => match never {},
        }
    }

    fn ask(&mut self, peer: &Peer, request: &Request) -> Result<Grant, Refusal> {
        self.drive(|snapshot| decide(request, peer, &context(None), snapshot))
    }

    fn act(&mut self, action: &OperatorAction) -> Result<Grant, Refusal> {
        self.drive(|snapshot| operate(action, &context(None), snapshot))
    }

    /// Joins `peer` as `worker-0` with disk `disk` and commits generation 1.
    fn joined(peer: &Peer, disk: DiskId) -> Self {
        let mut store = Self::default();
        drop(store.ask(peer, &join(disk, "worker-0")).unwrap());
        drop(store.ask(peer, &commit(disk, 1)).unwrap());
        store
    }

    fn record(&self, disk: DiskId) -> &NodeRecord {
        match self.0.get(&Key::Record(disk)) {
            Some(Value::Record(record)) => record,
            other => panic!("{other:?}"),
        }
    }
}

fn context(live_until: Option<u64>) -> Context {
    Context {
        now: Timestamp(100),
        key_version: KeyVersion::FIRST,
        live_until: live_until.map(Timestamp),
    }
}

fn peer(tpm: u8, boot: u8, path: AdmissionPath) -> Peer {
    Peer {
        attester: tpm_identity(tpm),
        image: String::from("image"),
        roles: [Role::Worker].into(),
        boot: crate::BootId::of_sealing_key(&[boot; 32]),
        sealing_key: crate::SealingKeyHash::of(&[boot; 32]),
        path,
    }
}

/// A bare SEV-SNP guest, in the boot with this `REPORT_ID`, that asks with this sealing key.
fn guest(report_id: u8, sealing_key: u8, path: AdmissionPath) -> Peer {
    Peer {
        attester: AttesterIdentity::SevSnp,
        boot: crate::BootId::of_report_id(&[report_id; 32]),
        ..peer(0, sealing_key, path)
    }
}

fn tpm_identity(tpm: u8) -> AttesterIdentity {
    format!("{tpm:064x}").parse().unwrap()
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn join(disk: DiskId, node: &str) -> Request {
    Request::IssueJoinTicket {
        disk,
        node: name(node),
        role: Role::Worker,
    }
}

fn rejoin(disk: DiskId) -> Request {
    Request::IssueRejoinTicket {
        disk,
        key_version: KeyVersion::FIRST,
    }
}

fn commit(disk: DiskId, generation: u64) -> Request {
    Request::Commit {
        disk,
        generation: Generation(generation),
    }
}

fn release(grant: Grant) -> Release {
    match grant {
        Grant::Ticket(ticket) => ticket.release,
        other => panic!("{other:?}"),
    }
}

use AdmissionPath::{Init, Join, Recover, Rejoin};

#[test]
fn a_join_then_a_rejoin() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    assert_eq!(store.record(D1).state, RecordState::Active);
    let released = release(store.ask(&peer(1, 2, Rejoin), &rejoin(D1)).unwrap());
    assert_eq!(
        (released.disk(), released.generation()),
        (D1, Generation(1))
    );
    let committed = store.ask(&peer(1, 2, Rejoin), &commit(D1, 2)).unwrap();
    assert_eq!(
        committed,
        Grant::Committed {
            generation: Generation(2)
        }
    );
    // The answer was lost: the same again.
    assert_eq!(
        store.ask(&peer(1, 2, Rejoin), &commit(D1, 2)).unwrap(),
        committed
    );
}

/// Otherwise the disk would get data that the services know nothing of, and the host could have a
/// blank disk joined in its place.
#[test]
fn a_disk_that_was_never_committed_is_not_recovered() {
    let mut store = Store::default();
    drop(store.ask(&peer(1, 1, Join), &join(D1, "worker-0")).unwrap());
    let refusal = store.ask(&peer(1, 2, Recover), &rejoin(D1)).unwrap_err();
    assert_eq!(refusal, Refusal::NothingToRecover { disk: D1 });
    assert!(!refusal.starts_over(), "nothing is wiped for it");
    drop(store.ask(&peer(1, 3, Rejoin), &rejoin(D1)).unwrap());
    drop(store.ask(&peer(1, 3, Rejoin), &commit(D1, 1)).unwrap());
    drop(release(
        store.ask(&peer(1, 4, Recover), &rejoin(D1)).unwrap(),
    ));
}

#[test]
fn a_committed_disk_is_not_joined_again_under_any_name() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    for node in ["worker-0", "worker-9"] {
        assert_eq!(
            store.ask(&peer(1, 2, Join), &join(D2, node)).unwrap_err(),
            Refusal::ActiveDiskBlank {
                node: name("worker-0"),
                disk: D1
            }
        );
    }
}

#[test]
fn an_issued_disk_that_is_blank_again_gets_a_new_id() {
    let mut store = Store::default();
    drop(store.ask(&peer(1, 1, Join), &join(D1, "worker-0")).unwrap());
    let released = release(store.ask(&peer(1, 2, Join), &join(D2, "worker-0")).unwrap());
    assert_eq!(released.disk(), D2);
    assert_eq!(
        store.record(D1).state,
        RecordState::Tombstone(TombstoneCause::Superseded)
    );
    let late = store.ask(&peer(1, 1, Join), &commit(D1, 1)).unwrap_err();
    assert_eq!(late, Refusal::NeverCommitted { disk: D1 });
    assert!(late.starts_over());
}

#[test]
fn other_machines_get_neither_name_nor_disk() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    let refusals = [
        store.ask(&peer(2, 2, Join), &join(D2, "worker-0")),
        store.ask(&peer(2, 2, Join), &join(D1, "worker-1")),
        store.ask(&peer(2, 2, Rejoin), &rejoin(D1)),
        store.ask(&peer(2, 2, Rejoin), &rejoin(D2)),
    ];
    let [name_taken, disk_taken, mismatch, unknown] = refusals.map(Result::unwrap_err);
    assert!(matches!(name_taken, Refusal::NameTaken { disk: D1, .. }));
    assert_eq!(disk_taken, Refusal::DiskTaken { disk: D1 });
    assert!(matches!(mismatch, Refusal::AttesterMismatch { .. }));
    assert_eq!(unknown, Refusal::UnknownDisk { disk: D2 });
    assert_eq!(name_taken.class(), RefusalClass::Refused);
}

#[test]
fn a_guest_without_a_latch_gets_one_release_for_each_boot() {
    let mut store = Store::joined(&guest(1, 1, Join), D1);
    let first = guest(2, 2, Rejoin);
    drop(release(store.ask(&first, &rejoin(D1)).unwrap()));
    // A lost answer is repeated to the same sealing key.
    drop(release(store.ask(&first, &rejoin(D1)).unwrap()));
    // Whoever asks later in the same boot has another one.
    let second = guest(2, 3, Rejoin);
    let spent = Refusal::BootSpent { disk: D1 };
    assert_eq!(store.ask(&second, &rejoin(D1)).unwrap_err(), spent);
    assert_eq!(
        store.ask(&second, &commit(D1, 2)).unwrap_err(),
        Refusal::NoTicket { disk: D1 }
    );
    drop(store.ask(&first, &commit(D1, 2)).unwrap());
    assert_eq!(store.ask(&first, &rejoin(D1)).unwrap_err(), spent);
    assert_eq!(store.ask(&second, &rejoin(D1)).unwrap_err(), spent);
    // Also after newer boots.
    drop(release(
        store.ask(&guest(4, 4, Rejoin), &rejoin(D1)).unwrap(),
    ));
    drop(store.ask(&guest(4, 4, Rejoin), &commit(D1, 3)).unwrap());
    for old in [&first, &second] {
        assert_eq!(store.ask(old, &rejoin(D1)).unwrap_err(), spent);
    }
    assert_eq!(
        store
            .ask(&guest(1, 9, Join), &join(D2, "worker-1"))
            .unwrap_err(),
        Refusal::BootClaimed {
            expected: D1,
            got: D2
        }
    );
}

#[test]
fn a_boot_that_the_operator_recovered_gets_nothing_from_the_services() {
    let mut store = Store::joined(&guest(1, 1, Join), D1);
    let recovered = guest(2, 2, Recover);
    let claim = BootClaim {
        disk: D1,
        boot: recovered.boot,
        attester: recovered.attester,
        sealing_key: recovered.sealing_key,
        committed: Some(Generation(2)),
    };
    let record = OperatorAction::RecordBoot(claim);
    assert_eq!(store.act(&record).unwrap(), Grant::Done);
    // Again, and after the boot was recorded otherwise: the first record stays.
    let other = BootClaim { disk: D2, ..claim };
    for action in [record, OperatorAction::RecordBoot(other)] {
        assert_eq!(store.act(&action).unwrap(), Grant::Done);
    }
    let spent = Refusal::BootSpent { disk: D1 };
    for sealing_key in [2, 3] {
        let root = guest(2, sealing_key, Rejoin);
        assert_eq!(store.ask(&root, &rejoin(D1)).unwrap_err(), spent);
    }
    assert_eq!(
        store
            .ask(&guest(2, 3, Join), &join(D2, "worker-1"))
            .unwrap_err(),
        Refusal::BootClaimed {
            expected: D1,
            got: D2
        }
    );
}

#[test]
fn guests_that_no_evidence_tells_apart_have_a_disk_each() {
    let mut store = Store::joined(&guest(1, 1, Join), D1);
    drop(release(
        store
            .ask(&guest(2, 2, Join), &join(D2, "worker-1"))
            .unwrap(),
    ));
    drop(store.ask(&guest(2, 2, Join), &commit(D2, 1)).unwrap());
    for (boot, disk) in [(3, D1), (4, D2)] {
        let released = release(
            store
                .ask(&guest(boot, boot, Rejoin), &rejoin(disk))
                .unwrap(),
        );
        assert_eq!(released.disk(), disk);
    }
    // The name holds what the machine holds elsewhere: its active disk is not joined again.
    assert!(matches!(
        store
            .ask(&guest(5, 5, Join), &join(D3, "worker-0"))
            .unwrap_err(),
        Refusal::ActiveDiskBlank { disk: D1, .. }
    ));
    // Neither does a machine with a TPM get it, nor a guest the disk of such a machine.
    assert!(matches!(
        store.ask(&peer(1, 6, Rejoin), &rejoin(D1)).unwrap_err(),
        Refusal::AttesterMismatch { .. }
    ));
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    assert!(matches!(
        store.ask(&guest(2, 2, Rejoin), &rejoin(D1)).unwrap_err(),
        Refusal::AttesterMismatch { .. }
    ));
}

#[test]
fn a_guest_that_never_committed_joins_again() {
    let mut store = Store::default();
    drop(
        store
            .ask(&guest(1, 1, Join), &join(D1, "worker-0"))
            .unwrap(),
    );
    let released = release(
        store
            .ask(&guest(2, 2, Join), &join(D2, "worker-0"))
            .unwrap(),
    );
    assert_eq!(released.disk(), D2);
    assert_eq!(
        store.ask(&guest(1, 1, Join), &commit(D1, 1)).unwrap_err(),
        Refusal::NeverCommitted { disk: D1 }
    );
}

#[test]
fn one_boot_gets_one_disk_once() {
    let first = peer(1, 1, Join);
    let mut store = Store::default();
    drop(store.ask(&first, &join(D1, "worker-0")).unwrap());
    let again = store.ask(&first, &join(D1, "worker-0")).unwrap();
    assert_eq!(release(again).disk(), D1);
    assert_eq!(
        store.ask(&first, &join(D2, "worker-0")).unwrap_err(),
        Refusal::BootClaimed {
            expected: D1,
            got: D2
        }
    );
    drop(store.ask(&first, &commit(D1, 1)).unwrap());
    let same_boot = peer(1, 1, Rejoin);
    assert_eq!(
        store.ask(&same_boot, &rejoin(D1)).unwrap_err(),
        Refusal::BootSpent { disk: D1 }
    );
}

#[test]
fn commits_go_upwards_and_need_a_ticket() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    let next = peer(1, 2, Rejoin);
    assert_eq!(
        store.ask(&next, &commit(D1, 2)).unwrap_err(),
        Refusal::NoTicket { disk: D1 }
    );
    drop(store.ask(&next, &rejoin(D1)).unwrap());
    for low in [0, 1] {
        assert!(matches!(
            store.ask(&next, &commit(D1, low)).unwrap_err(),
            Refusal::GenerationNotNew { .. }
        ));
    }
    drop(store.ask(&next, &commit(D1, 7)).unwrap());
    assert_eq!(store.record(D1).generation, Generation(7));
    assert_eq!(
        store.ask(&next, &commit(D1, 8)).unwrap_err(),
        Refusal::BootSpent { disk: D1 }
    );
}

#[test]
fn roles_come_from_image_and_operator() {
    let request = Request::IssueJoinTicket {
        disk: D1,
        node: name("cp-0"),
        role: Role::ControlPlane,
    };
    let mut store = Store::default();
    assert!(matches!(
        store.ask(&peer(1, 1, Join), &request).unwrap_err(),
        Refusal::RoleNotInImage { .. }
    ));
    let mut control_plane = peer(1, 1, Join);
    control_plane.roles.insert(Role::ControlPlane);
    let closed = Refusal::ControlPlaneNotOpen { node: name("cp-0") };
    assert_eq!(store.ask(&control_plane, &request).unwrap_err(), closed);
    let open = OperatorAction::OpenControlPlane { node: name("cp-0") };
    drop(store.act(&open).unwrap());
    drop(store.ask(&control_plane, &request).unwrap());
    drop(store.ask(&control_plane, &commit(D1, 1)).unwrap());
    let spent = Some(&Value::ControlPlane(ControlPlaneEntry::Spent));
    assert_eq!(store.0.get(&Key::ControlPlane(name("cp-0"))), spent);
    // The name is free again after `forget`, the permission is not.
    drop(
        store
            .act(&OperatorAction::Forget { node: name("cp-0") })
            .unwrap(),
    );
    let request = Request::IssueJoinTicket {
        disk: D2,
        node: name("cp-0"),
        role: Role::ControlPlane,
    };
    control_plane.boot = peer(1, 2, Join).boot;
    assert_eq!(store.ask(&control_plane, &request).unwrap_err(), closed);
}

/// The host chooses names, and what a cluster trusts a name with outlives its record.
#[test]
fn a_worker_never_gets_the_name_of_a_control_plane_node() {
    let refused = Refusal::ControlPlaneName { node: name("cp-0") };
    let adopt = OperatorAction::Adopt(crate::Adoption {
        disk: D1,
        node: name("cp-0"),
        role: Role::ControlPlane,
        attester: tpm_identity(1),
        generation: Generation(1),
    });
    let open = OperatorAction::OpenControlPlane { node: name("cp-0") };
    let forget = OperatorAction::Forget { node: name("cp-0") };
    let worker = peer(2, 2, Join);
    // Adopted, then forgotten; then open for the next one.
    let mut store = Store::default();
    drop(store.act(&adopt).unwrap());
    let spent = Some(&Value::ControlPlane(ControlPlaneEntry::Spent));
    assert_eq!(store.0.get(&Key::ControlPlane(name("cp-0"))), spent);
    for action in [forget.clone(), open.clone()] {
        drop(store.act(&action).unwrap());
        let before = store.0.clone();
        let asked = store.ask(&worker, &join(D2, "cp-0")).unwrap_err();
        assert_eq!((&asked, asked.class()), (&refused, RefusalClass::Refused));
        assert_eq!(store.0, before, "nothing is left of it");
    }
    // A control-plane node gets it: bound, then committed, then forgotten.
    let request = Request::IssueJoinTicket {
        disk: D3,
        node: name("cp-0"),
        role: Role::ControlPlane,
    };
    let mut control_plane = peer(3, 3, Join);
    control_plane.roles.insert(Role::ControlPlane);
    drop(store.ask(&control_plane, &request).unwrap());
    drop(store.ask(&control_plane, &commit(D3, 1)).unwrap());
    drop(store.act(&forget).unwrap());
    assert!(store.ask(&worker, &join(D2, "cp-0")).is_err());
    drop(store.ask(&worker, &join(D2, "worker-0")).unwrap());
}

/// The node was deleted from the cluster. A later disk of the same name must not die in its place.
#[test]
fn a_deleted_worker_is_retired_with_its_disk_and_no_other() {
    let retire = |disk| OperatorAction::Retire { disk };
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    drop(store.act(&retire(D1)).unwrap());
    let state = RecordState::Tombstone(TombstoneCause::Forgotten);
    assert_eq!(store.record(D1).state, state);
    let second = peer(2, 2, Join);
    drop(store.ask(&second, &join(D2, "worker-0")).unwrap());
    assert_eq!(
        store.act(&retire(D2)),
        Err(Refusal::NotRetired { disk: D2 })
    );
    drop(store.ask(&second, &commit(D2, 1)).unwrap());
    drop(store.act(&retire(D1)).unwrap());
    assert_eq!(store.record(D2).state, RecordState::Active);
    assert_eq!(
        store.act(&retire(D3)),
        Err(Refusal::UnknownDisk { disk: D3 })
    );
    if let Some(Value::Record(record)) = store.0.get_mut(&Key::Record(D2)) {
        record.role = Role::ControlPlane;
    }
    assert_eq!(
        store.act(&retire(D2)),
        Err(Refusal::NotRetired { disk: D2 })
    );
}

#[test]
fn forget_then_join_as_new() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    let forget = OperatorAction::Forget {
        node: name("worker-0"),
    };
    drop(store.act(&forget).unwrap());
    assert_eq!(
        store.ask(&peer(1, 2, Rejoin), &rejoin(D1)).unwrap_err(),
        Refusal::Tombstoned { disk: D1 }
    );
    assert_eq!(
        store
            .ask(&peer(1, 2, Join), &join(D1, "worker-0"))
            .unwrap_err(),
        Refusal::Tombstoned { disk: D1 }
    );
    let other = store.ask(&peer(2, 3, Join), &join(D2, "worker-0")).unwrap();
    assert_eq!(release(other).disk(), D2);
    assert!(
        store
            .act(&OperatorAction::Forget {
                node: name("nobody")
            })
            .is_err()
    );
}

#[test]
fn a_ticket_is_for_one_boot_and_one_sealing_key() {
    let asks = guest(1, 1, Join);
    let granted = Store::default().ask(&asks, &join(D1, "worker-0")).unwrap();
    let Grant::Ticket(ticket) = granted else {
        panic!("{granted:?}");
    };
    assert!(ticket.is_of(asks.boot, asks.sealing_key));
    for other in [guest(1, 2, Join), guest(2, 1, Join), peer(1, 1, Join)] {
        assert!(!ticket.is_of(other.boot, other.sealing_key));
    }
}

#[test]
fn rebind_moves_a_disk_to_another_machine() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    let attester = tpm_identity(2);
    drop(
        store
            .act(&OperatorAction::Rebind { disk: D1, attester })
            .unwrap(),
    );
    drop(store.ask(&peer(2, 2, Rejoin), &rejoin(D1)).unwrap());
    assert!(matches!(
        store.ask(&peer(1, 3, Rejoin), &rejoin(D1)).unwrap_err(),
        Refusal::AttesterMismatch { .. }
    ));
    // The old machine is free for a disk of its own, under another name.
    drop(store.ask(&peer(1, 4, Join), &join(D2, "worker-1")).unwrap());
    let taken = OperatorAction::Rebind { disk: D2, attester };
    assert!(store.act(&taken).is_err(), "one machine, one disk");
}

#[test]
fn adopt_and_accept_generation_never_make_a_disk_look_new() {
    let adoption = crate::Adoption {
        disk: D1,
        node: name("worker-0"),
        role: Role::Worker,
        attester: tpm_identity(1),
        generation: Generation(0),
    };
    let mut store = Store::default();
    drop(store.act(&OperatorAction::Adopt(adoption.clone())).unwrap());
    assert_eq!(store.record(D1).generation, Generation(1));
    let accept = OperatorAction::AcceptGeneration {
        disk: D1,
        generation: Generation(0),
    };
    drop(store.act(&accept).unwrap());
    assert_eq!(store.record(D1).generation, Generation(1));
    drop(store.ask(&peer(1, 1, Rejoin), &rejoin(D1)).unwrap());
    assert!(store.act(&OperatorAction::Adopt(adoption)).is_err());
}

#[test]
fn a_live_lease_is_unavailable_until_it_ends() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    let next = peer(1, 2, Rejoin);
    let request = rejoin(D1);
    let live = store.drive(|s| decide(&request, &next, &context(Some(101)), s));
    assert_eq!(live.unwrap_err().class(), RefusalClass::Unavailable);
    let over = store.drive(|s| decide(&request, &next, &context(Some(100)), s));
    drop(over.unwrap());
}

#[test]
fn calls_exist_on_their_paths_only() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    let register = Request::RegisterDisk { minted: D2 };
    for (path, request) in [
        (Rejoin, &join(D2, "worker-1")),
        (Recover, &join(D2, "worker-1")),
        (Join, &rejoin(D1)),
        (Init, &rejoin(D1)),
        (Rejoin, &register),
    ] {
        let refusal = store.ask(&peer(1, 2, path), request).unwrap_err();
        assert_eq!(refusal.class(), RefusalClass::Malformed, "{path} {request}");
    }
}

#[test]
fn an_init_is_for_one_machine_and_one_disk() {
    let mut store = Store::default();
    let register = |minted| Request::RegisterDisk { minted };
    let first = store.ask(&peer(1, 1, Init), &register(D1)).unwrap();
    assert_eq!(first, Grant::Registered { disk: D1 });
    let retry = store.ask(&peer(1, 2, Init), &register(D2)).unwrap();
    assert_eq!(retry, Grant::Registered { disk: D1 });
    assert!(store.ask(&peer(2, 3, Init), &register(D2)).is_err());
    assert!(store.ask(&peer(1, 2, Init), &join(D2, "worker-0")).is_err());
    for boot in [2, 4] {
        let ticket = store.ask(&peer(1, boot, Init), &join(D1, "worker-0"));
        assert_eq!(release(ticket.unwrap()).disk(), D1);
    }
    drop(store.ask(&peer(1, 4, Init), &commit(D1, 1)).unwrap());
    assert_eq!(
        store.record(D1).state,
        RecordState::Issued,
        "until it is finished"
    );
    drop(store.act(&OperatorAction::FinishInit).unwrap());
    let finished = Value::Init(InitEntry {
        disk: D1,
        attester: tpm_identity(1),
        finished: true,
    });
    assert_eq!(store.0.get(&Key::Init), Some(&finished));
    assert!(store.ask(&peer(1, 5, Init), &register(D2)).is_err());
}

/// What two replicas racing on one machine may leave: a record that nothing points to.
#[test]
fn a_record_that_lost_its_name_or_machine_is_not_current() {
    for key in [Key::Attester(tpm_identity(1)), Key::Name(name("worker-0"))] {
        let mut store = Store::joined(&peer(1, 1, Join), D1);
        let elsewhere = match store.0.get(&key) {
            Some(Value::Claim(claim)) => Value::Claim(Claim { disk: D2, ..*claim }),
            _ => Value::Attester(D2),
        };
        store.0.insert(key, elsewhere);
        let replaced = Refusal::NotCurrent {
            disk: D1,
            current: D2,
        };
        let next = peer(1, 2, Rejoin);
        assert_eq!(store.ask(&next, &rejoin(D1)).unwrap_err(), replaced);
        assert_eq!(store.ask(&next, &commit(D1, 2)).unwrap_err(), replaced);
    }
}

#[test]
fn a_claimed_disk_id_is_taken_even_without_a_record() {
    let mut store = Store::default();
    drop(store.ask(&peer(1, 1, Join), &join(D1, "worker-0")).unwrap());
    store.0.remove(&Key::Record(D1));
    for other in [peer(1, 2, Join), peer(2, 1, Join)] {
        let mut other = other;
        other.boot = peer(0, 9, Join).boot;
        assert_eq!(
            store.ask(&other, &join(D1, "worker-1")).unwrap_err(),
            Refusal::DiskTaken { disk: D1 }
        );
    }
}

#[test]
fn a_foreign_object_in_the_store_is_our_fault() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    store.0.insert(Key::Record(D1), Value::Attester(D1));
    let refusal = store.ask(&peer(1, 2, Rejoin), &rejoin(D1)).unwrap_err();
    assert_eq!(refusal.class(), RefusalClass::Internal);
}

#[test]
fn refusals_name_check_expected_and_got() {
    let mut store = Store::joined(&peer(1, 1, Join), D1);
    let foreign = peer(2, 2, Rejoin);
    let refusal = store.ask(&foreign, &rejoin(D1)).unwrap_err();
    let event = refusal.event(&rejoin(D1), &foreign);
    let check = &event.checks[0];
    assert_eq!(check.check.as_str(), "attester");
    assert_eq!(check.expected.as_str(), format!("{:064x}", 1));
    assert_eq!(check.got.as_str(), format!("{:064x}", 2));
    assert_eq!(event.disk, Some(D1));
}
