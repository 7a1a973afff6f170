//! The switches of `./test`, the only place of the tests that reads the environment, and what they
//! decide: how large counts are, and whether figures are kept.

use std::path::PathBuf;

/// The value of a switch, if it is set and not empty.
#[expect(clippy::disallowed_methods, reason = "switches of ./test, no settings of the product")]
pub fn switch(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether this is a run with full counts.
pub fn full() -> bool {
    switch("SHUNT_TEST_FULL").is_some()
}

/// A count that full runs take whole and others divided by 20.
pub fn count(whole: usize) -> usize {
    if full() { whole } else { whole.div_ceil(20) }
}

/// Prints a figure, and keeps it for docs/full-run.md when the run is a full one.
///
/// # Panics
/// When the directory that `./test` names can't be written to.
pub fn figure(name: &str, text: &str) {
    println!("{name}: {text}");
    if let Some(directory) = switch("SHUNT_TEST_FIGURES") {
        let file = PathBuf::from(directory).join(name.replace(' ', "-"));
        let kept = std::fs::write(&file, format!("- {name}: {text}\n"));
        kept.unwrap_or_else(|error| panic!("keep a figure in {}: {error}", file.display()));
    }
}

/// The program at `path` among those that `./test` installs because Debian has no package of them.
///
/// # Panics
/// When it is not there, with what to do.
pub fn tool(path: &str) -> PathBuf {
    let tools = switch("SHUNT_TEST_TOOLS")
        .map_or_else(|| crate::tree::root().join("target/tools"), PathBuf::from);
    let program = tools.join(path);
    assert!(program.is_file(), "{} is missing: `./test tools` installs it", program.display());
    program
}
