use super::*;
use audit::{Action, Outcome};
use std::fs;
use tempfile::TempDir;

struct Folder {
    folder: TempDir,
    readiness: Readiness,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("log")).unwrap();
        secret_file::write_credential(&folder.path().join("key"), SecretKind::AuditKey, &[7; 32])
            .unwrap();
        Self {
            folder,
            readiness: Readiness::default(),
        }
    }

    fn config(&self) -> AuditConfig {
        AuditConfig {
            directory: self.folder.path().join("log"),
            key: SecretSource::Credential {
                path: self.folder.path().join("key"),
            },
            file_mebibytes: NonZeroU32::MIN,
            files: NonZeroU32::new(2).unwrap(),
        }
    }

    fn open(&self) -> AuditLog {
        AuditLog::open(&self.config(), "replica-0", &self.readiness).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.config().directory).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths
            .filter(|path| path.extension().unwrap() == "jsonl")
            .collect();
        paths.sort();
        paths
    }

    fn text(&self) -> String {
        self.files()
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect()
    }

    fn assert_whole(&self, log: &AuditLog) -> audit::Report {
        let text = self.text();
        let report = audit::verify(text.lines(), &[*log.public_key()], &[log.head()]);
        assert_eq!(report.fault, None, "{text}");
        report
    }
}

fn event(request: &str) -> RecordEvent {
    RecordEvent::new(Action::Release, Outcome::Done, request)
}

#[tokio::test]
async fn a_record_is_in_the_file_when_the_call_returns() {
    let folder = Folder::new();
    let log = folder.open();
    log.record(event("GetDataKey-1")).await.unwrap();
    assert!(folder.text().contains("GetDataKey-1"));
    assert!(folder.readiness.missing().is_empty());
    assert!(!folder.assert_whole(&log).chains.is_empty());
}

#[tokio::test]
async fn parallel_records_are_all_there_once() {
    let folder = Folder::new();
    let log = folder.open();
    let tasks: Vec<_> = (0..300)
        .map(|number| {
            let log = log.clone();
            tokio::spawn(async move { log.record(event(&format!("call-{number}."))).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let text = folder.text();
    for number in 0..300 {
        assert_eq!(text.matches(&format!("call-{number}.")).count(), 1);
    }
    assert!(!folder.assert_whole(&log).chains.is_empty());
}

#[tokio::test]
async fn a_finished_log_is_signed_to_its_end_and_takes_no_more() {
    let folder = Folder::new();
    let log = folder.open();
    log.record(event("one")).await.unwrap();
    log.finish().await.unwrap();
    assert_eq!(log.record(event("two")).await, Err(RecordError::Closed));
    let report = folder.assert_whole(&log);
    assert_eq!(report.chains.last().unwrap().unsigned, 0);
}

#[tokio::test]
async fn a_torn_line_is_cut_and_the_next_chain_hangs_on() {
    let folder = Folder::new();
    let log = folder.open();
    log.record(event("kept")).await.unwrap();
    log.finish().await.unwrap();
    drop(log);
    let path = folder.files().remove(0);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{{\"body\":{{\"chain")).unwrap();
    let log = folder.open();
    log.record(event("after")).await.unwrap();
    let report = folder.assert_whole(&log);
    assert_eq!(report.chains.len(), 2);
    assert!(folder.text().contains("kept"));
}

#[tokio::test]
async fn a_rotation_that_a_crash_interrupted_keeps_the_link() {
    let folder = Folder::new();
    let log = folder.open();
    log.record(event("kept")).await.unwrap();
    log.finish().await.unwrap();
    let last = serde_json::to_string(&log.head()).unwrap();
    fs::write(folder.config().directory.join("audit.00000002.jsonl"), "").unwrap();
    let log = folder.open();
    let report = folder.assert_whole(&log);
    assert_eq!(report.chains.len(), 2);
    assert!(folder.text().contains(&format!("\"previous\":{last}")));
}

#[tokio::test]
async fn full_files_rotate_and_the_oldest_goes() {
    let folder = Folder::new();
    let log = folder.open();
    let mut event = event("GetDataKey");
    let check = audit::Check::new(&"c".repeat(128), "e".repeat(128), "g".repeat(128));
    event.checks = vec![check; RecordEvent::MAX_CHECKS];
    for _ in 0..900 {
        log.record(event.clone()).await.unwrap();
    }
    let names: Vec<_> = folder
        .files()
        .iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_ne!(names[0], "audit.00000001.jsonl");
    assert!(folder.config().directory.join("audit.reserve").exists());
}

#[tokio::test]
async fn one_folder_has_one_writer() {
    let folder = Folder::new();
    let _log = folder.open();
    assert!(matches!(
        AuditLog::open(&folder.config(), "other", &folder.readiness),
        Err(OpenError::Files {
            source: FileError::Locked(_),
            ..
        })
    ));
}

#[test]
fn a_wrong_key_or_folder_is_refused() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.directory = folder.folder.path().join("absent");
    assert!(matches!(
        AuditLog::open(&config, "r", &folder.readiness),
        Err(OpenError::Files { .. })
    ));
    fs::write(folder.folder.path().join("key"), "not a key").unwrap();
    assert!(matches!(
        AuditLog::open(&folder.config(), "r", &folder.readiness),
        Err(OpenError::Key(_))
    ));
}

/// Whoever chains on a record hears of it in every case, and of a success only when the line is there.
#[tokio::test]
async fn a_continuation_runs_after_the_line_is_durable_or_with_the_reason() {
    let folder = Folder::new();
    let log = folder.open();
    let record = |name: &'static str| {
        let (answer, answered) = oneshot::channel();
        let event = RecordEvent::new(Action::RecordChange, Outcome::Done, name);
        let files = folder.files();
        log.record_then(event, move |result| {
            let there = files
                .iter()
                .any(|path| fs::read_to_string(path).unwrap().contains(name));
            answer.send((result, there)).unwrap();
        });
        answered
    };
    assert_eq!(record("first").await.unwrap(), (Ok(()), true));
    log.finish().await.unwrap();
    let late = record("second").await.unwrap();
    assert_eq!(late, (Err(RecordError::Closed), false));
}
