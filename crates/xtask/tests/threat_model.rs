//! Every test that docs/threat-model.md names exists, so that a row cannot outlive its test.

use std::{fs, path::Path};

#[test]
fn every_named_test_exists() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(tree.join("docs/threat-model.md")).unwrap();
    let named: Vec<_> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once(".rs::"))
        .collect();
    assert!(named.len() > 100, "{} tests found", named.len());
    for (file, function) in named {
        let source = fs::read_to_string(tree.join(format!("{file}.rs"))).unwrap_or_default();
        let head = format!("fn {function}(");
        let before = source.split_once(&head).map(|(before, _)| before);
        let attributes = before.and_then(|before| before.rsplit("\n\n").next());
        assert!(
            attributes.is_some_and(|text| text.contains("#[test]") || text.contains("::test")),
            "`{file}.rs::{function}` is no test"
        );
    }
}
