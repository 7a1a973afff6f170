//! Rules for the Rust sources and manifests.

use shunt_tests::tree;

/// The most lines a source file may have.
const MAX_LINES: usize = 600;

fn check(what: &str, breach: impl Fn(&str, &str) -> Option<String>) {
    let sources = tree::texts("rs").unwrap();
    assert!(sources.len() > 30, "the sources were not found");
    let found: Vec<String> = sources
        .iter()
        .filter_map(|(file, text)| Some(format!("{file}: {}", breach(file, text)?)))
        .collect();
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn no_file_is_too_long_to_find_ones_way_in() {
    check("split these files", |_, text| {
        let lines = text.lines().count();
        (lines > MAX_LINES).then(|| format!("{lines} lines"))
    });
}

#[test]
fn every_file_says_what_it_is_for() {
    check("begin these files with `//!`", |file, text| {
        // Tests kept beside the code they test are explained by it.
        let beside = file.ends_with("/tests.rs") || file.contains("/tests/");
        (!beside && !text.starts_with("//!")).then(|| "no `//!` head".to_owned())
    });
}

#[test]
fn nothing_is_left_open() {
    // Written in pieces, or this file would be the first finding.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let calls = [concat!("to", "do!("), concat!("unimplemented", "!("), concat!("#[ig", "nore")];
    check("finish these", |_, text| {
        let words = marks.iter().find(|word| text.contains(**word));
        let code = tree::code_of(text);
        let call = calls.iter().find(|call| code.contains(**call));
        words.or(call).map(|word| (*word).to_owned())
    });
}

#[test]
fn unsafe_code_is_only_where_a_decision_record_argues_for_it() {
    let records: Vec<(String, String)> = tree::texts("md")
        .unwrap()
        .into_iter()
        .filter(|(file, _)| file.starts_with("docs/adr/"))
        .collect();
    check("no record in docs/adr names these files", |file, text| {
        let code = tree::code_of(text);
        let word = concat!("un", "safe");
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let used = code.match_indices(word).any(|(at, _)| {
            let whole = !code[..at].ends_with(part);
            whole && !code[at + word.len()..].starts_with(part)
        });
        let argued = records.iter().any(|(_, record)| record.contains(file));
        (used && !argued).then(|| word.to_owned())
    });
}

#[test]
fn only_the_configuration_reads_the_environment() {
    check("read the environment in crates/shunt/src/config", |file, text| {
        let code = tree::code_of(text);
        let reads =
            ["env::var", "env::vars", "env!(\"SHUNT"].iter().any(|call| code.contains(call));
        // The test kit finds programs by PATH and the binary under test by its own switch.
        let may = file.starts_with("crates/shunt/src/config")
            || file.starts_with("crates/cluster/src/")
            || file == "tests/src/switch.rs";
        (reads && !may).then(|| "reads the environment".to_owned())
    });
}

#[test]
fn the_core_names_no_input_or_output() {
    let forbidden = [
        "std::fs",
        "std::process",
        "std::net::Tcp",
        "std::net::Udp",
        "std::os::unix::net",
        "tokio::net",
        "tokio::fs",
        "tokio::process",
        "tokio::signal",
        "tokio::io",
    ];
    check("keep these out of the core", |file, text| {
        let core = file.starts_with("crates/domain/src") || file.starts_with("crates/engine/src");
        // The committed vectors of the target parser are read by its own test.
        if !core || file.contains("tests") || file.contains("testing") {
            return None;
        }
        let code = tree::code_of(text);
        let production = code.split("#[cfg(test)]").next().unwrap_or_default();
        let named = forbidden.iter().find(|name| production.contains(**name));
        named.map(|name| (*name).to_owned())
    });
    check("the domain has no runtime", |file, text| {
        let domain = file.starts_with("crates/domain/src");
        (domain && tree::code_of(text).contains("tokio::")).then(|| "tokio".to_owned())
    });
}

#[test]
fn tests_wait_for_conditions_not_for_the_clock() {
    check("wait for a condition", |file, text| {
        let code = tree::code_of(text);
        let kit = file == "crates/cluster/src/wait.rs";
        (!kit && code.contains("thread::sleep")).then(|| "thread::sleep".to_owned())
    });
}

#[test]
fn every_package_takes_the_common_lints_and_licence() {
    let manifests = tree::texts("toml").unwrap();
    let manifests = manifests.iter().filter(|(file, _)| file.ends_with("/Cargo.toml"));
    let mut count = 0;
    for (file, text) in manifests {
        count += 1;
        assert!(text.contains("[lints]\nworkspace = true"), "{file}: take the workspace's lints");
        for field in ["license", "edition", "rust-version", "version", "publish"] {
            let line = format!("{field}.workspace = true");
            assert!(text.contains(&line), "{file}: {line}");
        }
    }
    assert!(count >= 8, "the manifests were not found");
}

#[test]
fn the_tree_names_no_path_of_a_machine() {
    let paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];
    for extension in ["rs", "md", "toml", "sh", "py", "html", "js", "css", "conf", "json"] {
        for (file, text) in tree::texts(extension).unwrap() {
            for path in paths {
                // A link's own path may look like one: `https://…/home/`.
                let found = text.lines().find(|line| {
                    line.match_indices(path).any(|(at, _)| {
                        !line[..at].ends_with(|c: char| c.is_alphanumeric() || ".-_/".contains(c))
                    })
                });
                assert!(found.is_none(), "{file}: {found:?}");
            }
        }
    }
}

#[test]
fn no_private_key_is_kept_in_the_tree() {
    let mark = concat!("-----BEGIN ", "PRIVATE KEY");
    for file in tree::files().unwrap() {
        let bytes = std::fs::read(tree::root().join(&file)).unwrap();
        let found = bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
        assert!(!found, "{file} holds a private key");
    }
}
