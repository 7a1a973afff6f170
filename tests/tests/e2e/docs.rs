//! The documents against the program: what they tell a newcomer to type exists.

use shunt_cluster::{Shunt, shunt};
use shunt_tests::{markdown, tree};

use crate::kit::SOON;

/// The `shunt …` commands in the shell blocks of a document, without what comes behind a pipe.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let fences = markdown::fences(text).into_iter().filter(|fence| fence.language == "sh");
    for fence in fences {
        let text = fence.text.replace("\\\n", " ");
        for line in text.lines() {
            let line = line.trim().trim_start_matches("$ ");
            let line = line.split(" #").next().unwrap_or_default();
            let line = line.split(['|', '>', ';', '&']).next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let arguments = match words.as_slice() {
                ["shunt", rest @ ..] | ["./target/release/shunt", rest @ ..] => rest,
                ["cargo", "run", "--release", "--", rest @ ..] => rest,
                _ => continue,
            };
            commands.push(arguments.iter().map(|word| (*word).to_owned()).collect());
        }
    }
    commands
}

#[test]
fn every_command_in_the_documents_exists_with_its_flags() {
    let shunt = Shunt::new().unwrap();
    let mut seen = 0;
    for (file, text) in tree::texts("md").unwrap() {
        for command in commands(&text) {
            seen += 1;
            let is_name = |word: &&String| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let mut path: Vec<&str> = command
                .iter()
                .take_while(|word| is_name(word) && !word.starts_with('-'))
                .map(String::as_str)
                .take(2)
                .collect();
            // The second word is a subcommand or a value: take it only if the program does.
            let help = |path: &[&str]| {
                let arguments = path.iter().copied().chain(["--help"]);
                shunt.cli(arguments, SOON).unwrap()
            };
            let mut answer = help(&path);
            if answer.code() != 0 && path.len() == 2 {
                path.pop();
                answer = help(&path);
            }
            assert_eq!(answer.code(), 0, "{file}: shunt {}: {answer:?}", command.join(" "));
            for flag in command.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                assert!(answer.stdout.contains(flag), "{file}: {flag} of shunt {}", path.join(" "));
            }
        }
    }
    assert!(seen >= 5, "the documents name only {seen} commands");
}

#[test]
fn every_toml_block_in_the_documents_is_a_good_configuration() {
    let shunt = Shunt::new().unwrap();
    for (file, text) in tree::texts("md").unwrap() {
        // Only documents for people who run it; decision records may quote other files.
        if !(file == "README.md" || file.starts_with("docs/")) || file.contains("/adr/") {
            continue;
        }
        for fence in markdown::fences(&text).into_iter().filter(|f| f.language == "toml") {
            let path = shunt.files().join("block.toml");
            std::fs::write(&path, &fence.text).unwrap();
            let args = ["config", "check", "--config", path.to_str().unwrap()];
            let finished = shunt.cli(args, SOON).unwrap();
            assert_eq!(finished.code(), 0, "{file}:\n{}\n{finished:?}", fence.text);
        }
    }
}

#[test]
fn the_default_configuration_is_printed_and_is_good() {
    let shunt = Shunt::new().unwrap();
    let text = shunt.cli(["config", "default"], SOON).unwrap().ok().unwrap();
    let path = shunt.files().join("default.toml");
    std::fs::write(&path, text).unwrap();
    let args = ["config", "check", "--config", path.to_str().unwrap()];
    shunt.cli(args, SOON).unwrap().ok().unwrap();
}

#[test]
fn the_binary_names_its_version_and_completes() {
    let shunt = Shunt::new().unwrap();
    assert!(shunt::binary().is_ok());
    let version = shunt.cli(["--version"], SOON).unwrap().ok().unwrap();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        let script = shunt.cli(["completions", shell], SOON).unwrap().ok().unwrap();
        assert!(script.contains("shunt"), "{shell}");
    }
}
