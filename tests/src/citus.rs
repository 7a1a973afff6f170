//! Where the tests of Citus run, if anywhere: it is no package of Debian's.

use shunt_cluster::{Citus, citus};

use crate::switch::switch;

/// What says where they run: `local` starts the nodes, where the extension is installed;
/// `postgres://…` names a coordinator and a database whose name begins with `shunt_test` and that
/// may be emptied.
pub const SWITCH: &str = "SHUNT_TEST_CITUS_URL";

/// The database of clusters that are started here.
pub const DATABASE: &str = "shunt_test";

/// The value of the switch.
pub fn named() -> Option<String> {
    switch(SWITCH)
}

/// Says that a test did not run, where everybody looks.
fn absent(why: &str) {
    eprintln!("NOT RUN: {why}");
    println!("NOT RUN: {why}");
}

/// Three nodes of our own; `None`, and says so, unless that is asked for.
///
/// # Panics
/// When it is asked for and they don't start; with what they said.
pub fn own(setup: citus::Setup) -> Option<Citus> {
    match named().as_deref() {
        Some("local") => {
            let cluster = setup.start();
            let cluster = cluster.unwrap_or_else(|error| panic!("{SWITCH} is local: {error:#}"));
            let made = cluster.create_database(DATABASE);
            made.unwrap_or_else(|error| panic!("make a Citus cluster: {error:#}"));
            Some(cluster)
        }
        Some(_) => {
            absent(&format!("{SWITCH} is not `local`, and a named cluster's nodes are not killed"));
            None
        }
        None => {
            absent(&format!("{SWITCH} is not set; `local` starts a Citus cluster"));
            None
        }
    }
}
