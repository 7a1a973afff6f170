//! Out of file descriptors: nobody spins, old connections go on, and it heals by itself.

use std::time::{Duration, Instant};

use shunt_cluster::wait::pause;
use shunt_cluster::{Connection, Request, Shunt, until};

use crate::kit::{self, SOON};

#[test]
fn running_out_of_file_descriptors_spins_nothing_and_heals() {
    let mut shunt = Shunt::new().unwrap().wrap(["prlimit", "--nofile=256:256"]);
    shunt.start().unwrap();
    kit::link(&shunt, "old", "https://example.com/old");
    let mut old = shunt.connect().unwrap();
    assert_eq!(old.ask(&Request::get("/old")).unwrap().status, 302);

    // Connections that are held open by asking now and then would time out; these just stay.
    let crowd: Vec<Connection> = (0..1000).filter_map(|_| shunt.connect().ok()).collect();
    let process = shunt.process().unwrap();
    let open = until(SOON, "the limit, or a cap below it", || {
        let open = process.open_files().unwrap();
        (open > 60).then_some(open)
    })
    .unwrap();
    let before = process.cpu_time().unwrap();
    let began = Instant::now();
    // Time itself is what is measured here: how much of it the server uses.
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(old.ask(&Request::get("/old")).unwrap().status, 302, "an old connection");
        pause(Duration::from_millis(100));
    }
    let used = process.cpu_time().unwrap() - before;
    let share = used.as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(share < 0.25, "{:.0} % of a core for nothing", share * 100.0);
    drop(crowd);
    let began = Instant::now();
    until(Duration::from_secs(10), "a new connection to be served", || {
        let mut connection = shunt.connect().ok()?;
        connection.read_timeout(Duration::from_millis(500)).ok()?;
        connection.ask(&Request::get("/old")).ok().filter(|answer| answer.status == 302)
    })
    .unwrap();
    let healed = began.elapsed();
    kit::figure(
        "file descriptors",
        &format!("{open} open of 256, {:.0} % CPU, healed in {healed:?}", share * 100.0),
    );
    assert!(healed < Duration::from_secs(3), "{healed:?}");
}
