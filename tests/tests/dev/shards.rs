//! The nodes on the three shards.

use serde_json::json;
use shunt_cluster::{Request, until};

use crate::kit::{Dev, LONG};

const FEW: &[&str] = &["--without", "redis,kafka,haproxy"];

fn create(dev: &Dev, code: &str) -> u16 {
    let link = json!({ "target": "https://example.com/", "code": code });
    dev.ask(Request::post_json("/api/v1/links", &link)).status
}

fn status(dev: &Dev, code: &str) -> u16 {
    dev.ask(Request::get(format!("/{code}"))).status
}

#[test]
fn links_lie_on_the_shards_and_stay_there() {
    let mut dev = Dev::new();
    dev.up_with(&[&["--store", "shards"], FEW].concat());
    dev.wait_all_up();
    assert_eq!(dev.in_role("shard"), ["shard-1", "shard-2", "shard-3"]);
    let codes: Vec<String> = (0..30).map(|at| format!("code{at}")).collect();
    for code in &codes {
        assert_eq!(create(&dev, code), 201, "{code}");
        assert_eq!(status(&dev, code), 302, "{code}");
    }
    // Not the home, where the API keys are.
    dev.ok(&["kill", "shard-3"]);
    let made: Vec<u16> = (0..30).map(|at| create(&dev, &format!("more{at}"))).collect();
    let count = |status| made.iter().filter(|made| **made == status).count();
    assert_eq!(count(201) + count(503), 30, "{made:?}");
    assert!(count(201) > 5 && count(503) > 2, "only the keys of one shard: {made:?}");
    assert_eq!(dev.ok(&["heal"]), "shard-3: started\n");
    until(LONG, "all creates to go on", || {
        let codes = (0..30).map(|at| create(&dev, &format!("more{at}")));
        codes.collect::<Vec<_>>().iter().all(|status| [201, 409].contains(status)).then_some(())
    })
    .unwrap();
    dev.ok(&["down"]);

    // The next start knows where they are.
    let other = dev.run(&["up", "--store", "postgres"]);
    assert_eq!(other.code(), 69, "{other:?}");
    assert!(other.stderr.contains("are on shards"), "{other:?}");
    let unknown = dev.run(&["up", "--store", "mysql"]);
    assert_eq!(unknown.code(), 64, "{unknown:?}");
    let without = dev.run(&["up", "--without", "shards"]);
    assert!(without.stderr.contains("leave out --without shards"), "{without:?}");
    dev.up_with(FEW);
    for code in &codes {
        assert_eq!(status(&dev, code), 302, "{code}");
    }
    dev.ok(&["down", "--purge"]);
    assert!(dev.directory_is_gone());
}
