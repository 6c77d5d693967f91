use super::*;
use admission::{Context, Grant, OperatorAction, Timestamp, operate};
use identity::KeyVersion;

const CLUSTER: ClusterId = ClusterId::from_bytes([1; 32]);

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("store"), CLUSTER).unwrap()
}

async fn let_in(store: &Store, name: &str) -> Result<Grant, DecisionError> {
    let action = OperatorAction::OpenControlPlane {
        node: name.parse().unwrap(),
    };
    let context = Context {
        now: Timestamp(1),
        key_version: KeyVersion::FIRST,
        live_until: None,
    };
    store
        .settle(move |snapshot| operate(&action, &context, snapshot))
        .await
        .map(Persisted::audited)
}

fn objects(store: &Store) -> usize {
    let transaction = store.database.begin_read().unwrap();
    transaction
        .open_table(OBJECTS)
        .unwrap()
        .iter()
        .unwrap()
        .count()
}

#[tokio::test]
async fn decisions_survive_a_restart_and_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let pending: Vec<_> = (0..50)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { let_in(&store, &format!("control-{number}")).await })
        })
        .collect();
    for decided in pending {
        assert_eq!(decided.await.unwrap().unwrap(), Grant::Done);
    }
    let backup = store.backup().unwrap();
    store.close().await;
    assert_eq!(objects(&open(&folder)), 50);
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("store"), backup).unwrap();
    assert_eq!(objects(&open(&other)), 50);
}

#[tokio::test]
async fn a_closed_store_decides_nothing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.clone().close().await;
    let decided = let_in(&store, "control-0").await;
    assert_eq!(decided, Err(DecisionError::Store(StoreError::Failed)));
}

fn versions(serials: [(&'static str, u64, u8); 2]) -> [Version; 2] {
    serials.map(|(document, serial, content)| Version {
        document,
        serial,
        digest: [content; 32],
    })
}

#[tokio::test]
async fn serials_only_rise_and_only_together() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let raise = |store: &Store, serials| store.raise_serials(&versions(serials));
    raise(&store, [("a", 3, 1), ("b", 5, 1)]).unwrap();
    raise(&store, [("a", 3, 1), ("b", 5, 1)]).unwrap();
    let lower = raise(&store, [("a", 9, 2), ("b", 4, 2)]).unwrap_err();
    assert!(matches!(
        lower,
        SerialError::Refused(SerialRefusal::Lower {
            stored: 5,
            got: 4,
            ..
        })
    ));
    raise(&store, [("a", 4, 2), ("b", 5, 1)]).unwrap();
    store.close().await;
    assert!(raise(&open(&folder), [("a", 3, 1), ("b", 5, 1)]).is_err());
}

#[tokio::test]
async fn one_serial_is_one_content() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let raise = |store: &Store, serials| store.raise_serials(&versions(serials));
    raise(&store, [("a", 3, 1), ("b", 5, 1)]).unwrap();
    let reused = raise(&store, [("a", 4, 2), ("b", 5, 2)]).unwrap_err();
    assert!(matches!(
        reused,
        SerialError::Refused(SerialRefusal::Reused {
            document: "b",
            serial: 5
        })
    ));
    let backup = store.backup().unwrap();
    store.close().await;
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("store"), backup).unwrap();
    for folder in [&folder, &other] {
        let store = open(folder);
        assert!(raise(&store, [("a", 3, 2), ("b", 5, 1)]).is_err());
        raise(&store, [("a", 3, 1), ("b", 6, 2)]).unwrap();
        store.close().await;
    }
}

#[test]
fn a_file_of_something_else_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let foreign: TableDefinition<'_, &str, &str> = TableDefinition::new("foreign");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(foreign).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(
        Store::open(&path, CLUSTER),
        Err(OpenError::Format(_))
    ));
    let database = Database::open(&path).unwrap();
    let tables = database
        .begin_read()
        .unwrap()
        .list_tables()
        .unwrap()
        .count();
    assert_eq!(tables, 1);
    fs::write(&path, "not a database").unwrap();
    drop(database);
    assert!(Store::open(&path, CLUSTER).is_err());
}

#[tokio::test]
async fn rubbish_in_the_store_refuses_what_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let transaction = store.database.begin_write().unwrap();
    transaction
        .open_table(OBJECTS)
        .unwrap()
        .insert("control-plane-bad", b"{}".as_slice())
        .unwrap();
    transaction.commit().unwrap();
    assert!(matches!(
        let_in(&store, "bad").await,
        Err(DecisionError::Refused(Refusal::StoreCorrupt { key })) if key == "control-plane-bad"
    ));
    assert_eq!(let_in(&store, "good").await.unwrap(), Grant::Done);
}
