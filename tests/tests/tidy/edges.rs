//! The edges between the crates are those that ARCHITECTURE.md draws.

use cargo_metadata::{Metadata, MetadataCommand};
use serde_json::{Value, json};
use shunt_tests::{edges, tree};

fn metadata() -> Value {
    let mut command = MetadataCommand::new();
    command.manifest_path(tree::root().join("Cargo.toml")).no_deps();
    command.other_options(["--offline".to_owned(), "--locked".to_owned()]);
    serde_json::to_value(command.exec().unwrap()).unwrap()
}

fn breaches(metadata: Value) -> Vec<String> {
    let metadata: Metadata = serde_json::from_value(metadata).unwrap();
    let text = std::fs::read_to_string(tree::root().join("ARCHITECTURE.md")).unwrap();
    edges::check(&metadata, &edges::table(&text).unwrap())
}

fn plant(package: &str, dependency: &str, kind: Option<&str>, optional: bool) -> Vec<String> {
    let mut metadata = metadata();
    let packages = metadata["packages"].as_array_mut().unwrap();
    let package = packages.iter_mut().find(|p| p["name"] == package).unwrap();
    package["dependencies"].as_array_mut().unwrap().push(json!({
        "name": dependency, "source": null, "req": "*", "kind": kind, "rename": "innocent",
        "optional": optional, "uses_default_features": true, "features": [], "target": null,
        "registry": null,
    }));
    breaches(metadata)
}

#[test]
fn the_edges_are_those_of_the_architecture() {
    assert_eq!(breaches(metadata()), [""; 0]);
}

#[test]
fn a_planted_edge_is_found_whatever_its_kind() {
    let base = breaches(metadata()).len();
    for (package, dependency, kind, optional) in [
        ("shunt-domain", "rusqlite", None, false),
        ("shunt-domain", "http", Some("dev"), false),
        ("shunt-engine", "hyper", Some("build"), false),
        ("shunt-engine", "shunt-store", Some("dev"), false),
        ("shunt-engine", "axum", None, true),
        ("shunt-http", "shunt-store", None, false),
        ("shunt-http", "rusqlite", None, true),
        ("shunt-store", "shunt-clicks", Some("dev"), false),
        ("shunt-clicks", "shunt-store", None, false),
        ("shunt-analytics", "memmap2", None, false),
    ] {
        let found = plant(package, dependency, kind, optional);
        assert_eq!(found.len(), base + 1, "{package} → {dependency}: {found:?}");
        assert!(found.iter().any(|line| line.contains(dependency)), "{found:?}");
    }
}

#[test]
fn a_planted_feature_is_found() {
    let mut metadata = metadata();
    let packages = metadata["packages"].as_array_mut().unwrap();
    let domain = packages.iter_mut().find(|p| p["name"] == "shunt-domain").unwrap();
    domain["features"] = json!({"fast": ["hyper?/http1"]});
    assert!(breaches(metadata).iter().any(|line| line.contains("feature hyper?/http1")));
}
