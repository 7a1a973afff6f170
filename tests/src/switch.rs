//! The switches of `./test`, the only place of the tests that reads the environment.

/// The value of a switch, if it is set and not empty.
#[expect(clippy::disallowed_methods, reason = "switches of ./test, no settings of the product")]
pub fn switch(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether this is a run with full counts.
pub fn full() -> bool {
    switch("SHUNT_TEST_FULL").is_some()
}
