use super::*;

/// As kubeadm writes it.
const OURS: &str = include_str!("../../../../tests/support/kubeconfig.yaml");

/// With what no struct of ours would know.
const THEIRS: &str = "apiVersion: v1
kind: Config
clusters:
- name: home
  cluster: {server: 'https://home:6443', tls-server-name: home, extensions: [{name: x, extension: {a: 1}}]}
contexts:
- name: home
  context: {cluster: home, user: home, namespace: lab}
users:
- name: home
  user: {exec: {command: get-token, apiVersion: client.authentication.k8s.io/v1}}
current-context: home
preferences: {colors: true}
";

fn parse(text: &str) -> Document {
    Document::parse(text.as_bytes()).unwrap()
}

fn entry(name: &str) -> Entry {
    parse(OURS).only_context(name).unwrap()
}

#[test]
fn a_cluster_is_taken_in_and_everything_else_stays() {
    let before = parse(THEIRS).0;
    let mut document = parse(THEIRS);
    document.merge(entry("lab"), false).unwrap();
    assert!(!document.make_current("lab", false), "home stays current");
    let after = parse(&document.encode().unwrap()).0;
    for list in LISTS {
        let (before, after) = (before[list].as_array(), after[list].as_array());
        let (before, after) = (before.unwrap(), after.unwrap());
        assert_eq!(after.len(), 2);
        assert_eq!(after[0], before[0], "{list}");
        assert_eq!(after[1]["name"], "lab");
    }
    for field in ["apiVersion", "kind", "current-context", "preferences"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(
        after["contexts"][1]["context"],
        json!({"cluster": "lab", "user": "lab"})
    );
    assert_eq!(after["users"][1]["user"]["client-key-data"], "S0VZ");
}

#[test]
fn a_new_file_has_it_as_the_current_context() {
    for text in ["", "clusters: null\n"] {
        let mut document = parse(text);
        document.merge(entry("lab"), false).unwrap();
        assert!(document.make_current("lab", false));
        let encoded = document.encode().unwrap();
        assert_eq!(parse(&encoded).0["current-context"], "lab");
        assert!(parse(&encoded).only_context("other").is_ok());
    }
}

#[test]
fn another_entry_of_that_name_is_replaced_only_if_wanted() {
    let mut document = parse(THEIRS);
    assert!(document.merge(entry("home"), false).is_err());
    document.merge(entry("home"), true).unwrap();
    assert_eq!(
        document.0["clusters"],
        json!([{"name": "home", "cluster": {
            "certificate-authority-data": "Q0E=", "server": "https://10.0.0.1:6443"}}])
    );
    document.merge(entry("home"), false).unwrap();
    assert!(document.make_current("home", false));
}

#[test]
fn what_is_no_kubeconfig_of_one_cluster_is_refused() {
    for text in ["[]", "a", "a: [", "\u{0}"] {
        assert!(Document::parse(text.as_bytes()).is_err(), "{text:?}");
    }
    assert!(Document::parse(b"\xff").is_err());
    let flaws = [
        OURS.replace("name: kubernetes\n", "name: other\n"),
        OURS.replace("- name: kubernetes-admin\n", "- name: other\n"),
        OURS.replace("contexts:", "others:"),
        OURS.replace("    user: kubernetes-admin\n", "    user: 7\n"),
    ];
    for flaw in flaws {
        assert!(parse(&flaw).only_context("lab").is_err(), "{flaw}");
    }
    let mut document = parse("clusters: 7\n");
    assert!(document.merge(entry("lab"), true).is_err());
}

const ENDPOINT: &str = "10.0.0.1:6443";

/// What a hostile first node might send, and the word that the refusal has.
fn hostile() -> Vec<(String, &'static str)> {
    let user = |field: &str| OURS.replace("  user:\n", &format!("  user:\n    {field}\n"));
    let cluster = |field: &str| OURS.replace("- cluster:\n", &format!("- cluster:\n    {field}\n"));
    vec![
        (user("exec: {command: sh}"), "exec"),
        (user("auth-provider: {name: gcp}"), "auth-provider"),
        (user("tokenFile: /etc/passwd"), "tokenFile"),
        (user("client-key: /etc/passwd"), "client-key"),
        (user("as: somebody"), "as"),
        (user("password: p"), "password"),
        (user("<<: {exec: {command: sh}}"), ""),
        (cluster("proxy-url: http://proxy"), "proxy-url"),
        (cluster("insecure-skip-tls-verify: true"), "insecure-skip"),
        (
            cluster("certificate-authority: /a"),
            "certificate-authority",
        ),
        (OURS.replace("S0VZ", "{exec: 1}"), "client-key-data"),
        (
            OURS.replace("S0VZ", "\"a\\u0085exec: 1\""),
            "client-key-data",
        ),
        (OURS.replace("S0VZ", "'a b'"), "client-key-data"),
    ]
}

#[test]
fn what_would_run_or_read_something_is_taken_nowhere() {
    for (text, word) in hostile() {
        let Ok(document) = Document::parse(text.as_bytes()) else {
            continue;
        };
        let merged = document.only_context("lab").map(drop).unwrap_err();
        let stored = document.check_administrator(ENDPOINT).unwrap_err();
        for error in [merged, stored] {
            assert!(format!("{error:#}").contains(word), "{error:#}: {text}");
        }
    }
}

#[test]
fn only_what_kubeadm_writes_is_the_administrators() {
    parse(OURS).check_administrator(ENDPOINT).unwrap();
    let long = OURS.replace("S0VZ", &"S0VZ".repeat(1000));
    parse(&long).check_administrator(ENDPOINT).unwrap();
    let encoded = parse(&long).encode().unwrap();
    assert_eq!(parse(&encoded).0, parse(&long).0);
    let other = "- name: other\n  user: {client-key-data: YQ==}\n";
    for flaw in [
        OURS.replace("https:", "http:"),
        OURS.replace("10.0.0.1:6443", "10.0.0.2:6443"),
        OURS.replace("10.0.0.1:6443", "10.0.0.1:6443/path"),
        OURS.replace("10.0.0.1:6443", "10.0.0.1:6443@10.0.0.2"),
        OURS.replace("    client-key-data: S0VZ\n", "    token: t\n"),
        OURS.replace("    client-key-data: S0VZ\n", ""),
        OURS.replace("    certificate-authority-data: Q0E=\n", ""),
        OURS.replace("    cluster: kubernetes\n", "    cluster: other\n"),
        OURS.replace("    user: kubernetes-admin\n", "    user: other\n"),
        OURS.replace("current-context: ", "current-context: other"),
        OURS.replace("  name: kubernetes\n", "  name: kubernetes\n  exec: {}\n"),
        OURS.replace("preferences: {}", "preferences: {colors: true}"),
        OURS.replace("preferences: {}", "preferences: [1]"),
        OURS.replace("preferences: {}", "extensions: []"),
        OURS.replace("users:\n", "users: []\nothers:\n"),
        format!("{OURS}{other}"),
        THEIRS.to_owned(),
        String::new(),
    ] {
        let checked = parse(&flaw).check_administrator(ENDPOINT);
        assert!(checked.is_err(), "{flaw}");
    }
}

/// Parsers quote what they do not understand.
#[test]
fn no_error_shows_a_key() {
    let text = OURS.replace("client-key-data: S0VZ", "client-key-data: [S0VZ");
    let Err(error) = Document::parse(text.as_bytes()) else {
        panic!("parsed");
    };
    assert!(!format!("{error:?}").contains("S0VZ"), "{error:?}");
}
