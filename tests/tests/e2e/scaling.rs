//! docs/scaling.md: what it says about settings is what shunt reads.

use std::collections::BTreeMap;

use shunt_cluster::Shunt;

use crate::kit::SOON;

/// `$NAME` replaced by its value, the longest names first.
fn filled(template: &str, values: &BTreeMap<&str, &str>) -> String {
    let mut names: Vec<&&str> = values.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names
        .into_iter()
        .fold(template.to_owned(), |text, name| text.replace(&format!("${name}"), values[*name]))
}

/// The words between backticks of one cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn variables_of_others_become_ours_as_the_table_says() {
    let page = std::fs::read_to_string(shunt_tests::tree::root().join("docs/scaling.md")).unwrap();
    let theirs = BTreeMap::from([
        ("PORT", "3000"),
        ("PG_HOST", "10.0.0.5"),
        ("PG_PORT", "6432"),
        ("PG_USER", "app"),
        ("PG_PASSWORD", "geheim"),
        ("PG_DATABASE", "url_shortener"),
        ("REDIS_NODE1", "10.0.1.1"),
        ("REDIS_NODE2", "10.0.1.2"),
        ("REDIS_NODE3", "10.0.1.3"),
        ("REDIS_PORT", "6379"),
        ("REDIS_PASSWORD", "geheim2"),
        ("BASE_URL", "http://links.example.com/api/urls"),
    ]);
    let table = page.split("| theirs | ours |").nth(1).unwrap();
    let mut named = Vec::new();
    let mut node = Shunt::new().unwrap();
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').collect();
        named.extend(quoted(cells[1]));
        let [ours] = quoted(cells[2])[..] else { panic!("one of ours in {row}") };
        let (name, template) = ours.split_once('=').unwrap();
        node = node.env(name, filled(template, &theirs));
    }
    named.sort_unstable();
    assert_eq!(named, theirs.keys().copied().collect::<Vec<_>>(), "all are in the table");

    let shown = node.cli(["config", "show", "--json"], SOON).unwrap();
    assert_eq!(shown.code(), 0, "{shown:?}");
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    let value = |key: &str| shown["settings"][key]["value"].as_str().unwrap().to_owned();
    assert_eq!(value("listen"), "0.0.0.0:3000");
    assert_eq!(value("base_url"), "http://links.example.com/api/urls");
    for (key, words) in [
        ("store.url", ["10.0.0.5:6432/url_shortener"].as_slice()),
        ("cache.url", &["10.0.1.1:6379,10.0.1.2:6379,10.0.1.3:6379"]),
    ] {
        let value = value(key);
        assert!(words.iter().all(|word| value.contains(word)), "{key}: {value}");
        assert!(!value.contains("geheim"), "{key}: {value}");
    }
}
