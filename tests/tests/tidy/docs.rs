//! The documents against the tree: links lead somewhere, named tests and files exist.

use std::collections::BTreeSet;

use shunt_tests::{markdown, tree};

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = tree::texts("md").unwrap();
    let mut broken = Vec::new();
    for (file, text) in &documents {
        let folder = std::path::Path::new(file).parent().unwrap();
        for link in markdown::links(text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = tree::root().join(folder).join(path);
            let itself = path.is_empty();
            if !itself && !target.exists() {
                broken.push(format!("{file}: {link}"));
                continue;
            }
            let target = if itself { tree::root().join(file) } else { target };
            if !anchor.is_empty() && target.extension().is_some_and(|e| e == "md") {
                let text = std::fs::read_to_string(&target).unwrap();
                if !markdown::anchors(&text).iter().any(|a| a == anchor) {
                    broken.push(format!("{file}: {link} (no such heading)"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// The invariants table names, for each invariant, the tests that hold it; they exist.
#[test]
fn every_invariant_is_held_by_tests_that_exist() {
    let text = std::fs::read_to_string(tree::root().join("ARCHITECTURE.md")).unwrap();
    let section = text.split_once("\n## Invariants\n").unwrap().1;
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let sources: String = tree::texts("rs").unwrap().into_iter().map(|(_, text)| text).collect();
    let mut numbers = BTreeSet::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, tests] = cells.as_slice() else { panic!("not three cells: {row}") };
        numbers.insert(number.parse::<u32>().unwrap());
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "invariant {number} names no test");
        for name in names {
            // `module::name`, or the bare name of the function.
            let function = name.rsplit("::").next().unwrap();
            let defined = sources.contains(&format!("fn {function}("));
            assert!(defined, "invariant {number}: there is no test {name}");
        }
    }
    assert_eq!(numbers, (1..=11).collect(), "the table must have all invariants");
}

#[test]
fn files_and_folders_named_in_the_readme_exist() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = std::fs::read_to_string(tree::root().join(document)).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            let looks_like_a_path = ["crates/", "docs/", "tests/", "bench/", "deploy/"]
                .iter()
                .any(|folder| word.starts_with(folder))
                && !word.contains(['*', '{', '<', ' ', '…']);
            assert!(!looks_like_a_path || tree::root().join(word).exists(), "{document}: {word}");
        }
    }
}

#[test]
fn the_changelog_has_its_unreleased_part_on_top() {
    let text = std::fs::read_to_string(tree::root().join("CHANGELOG.md")).unwrap();
    let first = text.lines().find(|line| line.starts_with("## ")).unwrap();
    assert_eq!(first, "## [Unreleased]");
}
