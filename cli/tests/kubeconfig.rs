//! `constellation kubeconfig merge` as an operator runs it.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot run the program fails"
)]

#[path = "support/operator.rs"]
mod operator;

use operator::Operator;
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

fn kubeconfig(server: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Config, clusters: [{{name: c, cluster: {{server: '{server}'}}}}], contexts: [{{name: x, context: {{cluster: c, user: u}}}}], users: [{{name: u, user: {{token: t}}}}]}}\n"
    )
}

#[test]
fn a_new_file_is_for_its_owner_alone_and_a_link_stays_a_link() {
    let operator = Operator::new();
    fs::write(operator.path("ours"), kubeconfig("https://a:1")).unwrap();
    operator.ok("kubeconfig merge ours --context a --into folder/config");
    let file = operator.path("folder/config");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);

    symlink(&file, operator.path("link")).unwrap();
    fs::write(operator.path("ours"), kubeconfig("https://b:1")).unwrap();
    operator.ok("kubeconfig merge ours --context b --into link");
    assert!(operator.path("link").is_symlink());
    let text = fs::read_to_string(&file).unwrap();
    for part in ["https://a:1", "https://b:1", "current-context: a"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(mode(&file), 0o600);
    assert!(!operator.path("folder/config.tmp").exists());
}

#[test]
fn what_cannot_be_merged_changes_nothing() {
    let operator = Operator::new();
    let (ours, theirs) = (kubeconfig("https://a:1"), kubeconfig("https://b:1"));
    fs::write(operator.path("ours"), &ours).unwrap();
    fs::write(
        operator.path("theirs"),
        theirs.replace("name: c,", "name: a,"),
    )
    .unwrap();
    let before = fs::read(operator.path("theirs")).unwrap();
    let error = operator.fails("kubeconfig merge ours --context a --into theirs");
    assert!(error.contains("--replace"), "{error}");
    fs::write(operator.path("broken"), "a: [").unwrap();
    let program = ours.replace("token: t", "exec: {command: sh}");
    fs::write(operator.path("program"), program).unwrap();
    let error = operator.fails("kubeconfig merge program --context p --into theirs");
    assert!(error.contains("exec"), "{error}");
    operator.fails("kubeconfig merge broken --into theirs");
    operator.fails("kubeconfig merge ours --into broken");
    operator.fails("kubeconfig merge absent --into theirs");
    assert_eq!(fs::read(operator.path("theirs")).unwrap(), before);
}
