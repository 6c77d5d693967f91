//! Every row of docs/threat-model.md names a test, and every named one exists: no row without, or outliving, its test.

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
    let mut tables = 0;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.ends_with("| shown by |") {
            continue;
        }
        tables += 1;
        // Below the line that ends the head.
        lines.next();
        while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
            assert!(row.contains(".rs::"), "no test shows: {row}");
        }
    }
    assert!(tables > 5, "{tables} tables found");
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
