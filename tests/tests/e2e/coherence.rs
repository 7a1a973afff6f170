//! An edit is seen at once, and what was absent is seen as soon as it is there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};
use shunt_cluster::{Request, Shunt};

use crate::kit;

fn patch(key: &str, code: &str, patch: &Value) -> Request {
    Request::new("PATCH", format!("/api/v1/links/{code}"))
        .key(key)
        .header("Content-Type", "application/merge-patch+json")
        .body(patch.to_string())
}

#[test]
fn an_edit_is_visible_at_once_on_every_core() {
    let shunt = Shunt::new().unwrap().arg("--cores").arg("2");
    let mut shunt = shunt;
    shunt.start().unwrap();
    let key = kit::admin(&shunt);
    kit::link(&shunt, "edit", "https://example.com/0");
    // Enough connections that both cores have some.
    let mut readers: Vec<_> = (0..16).map(|_| shunt.connect().unwrap()).collect();
    let mut writer = shunt.connect().unwrap();
    for round in 1..=kit::count(2000) {
        let target = format!("https://example.com/{round}");
        let answer = writer.ask(&patch(&key, "edit", &json!({"target": target}))).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        for reader in &mut readers {
            let answer = reader.ask(&Request::get("/edit")).unwrap();
            assert_eq!(answer.location(), target, "round {round}");
        }
    }
    let off = writer.ask(&patch(&key, "edit", &json!({"enabled": false}))).unwrap();
    assert_eq!(off.status, 200);
    for reader in &mut readers {
        assert_eq!(reader.ask(&Request::get("/edit")).unwrap().status, 410);
    }
}

/// While readers load the link again and again, no reader ever goes back to an older target.
#[test]
fn a_load_that_began_before_an_edit_never_brings_the_old_target_back() {
    let shunt = Shunt::started().unwrap();
    let key = kit::admin(&shunt);
    kit::link(&shunt, "race", "https://example.com/0");
    let done = AtomicBool::new(false);
    let edits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = shunt.connect().unwrap();
                    let mut reads = 0_u64;
                    while !done.load(Ordering::Acquire) {
                        let floor = edits.load(Ordering::Acquire);
                        let answer = connection.ask(&Request::get("/race")).unwrap();
                        let seen = answer.location().rsplit('/').next().unwrap();
                        let seen: u64 = seen.parse().unwrap();
                        assert!(seen >= floor, "saw {seen} after edit {floor} was answered");
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let mut writer = shunt.connect().unwrap();
        for round in 1..=kit::count(4000) as u64 {
            let target = format!("https://example.com/{round}");
            let answer = writer.ask(&patch(&key, "race", &json!({"target": target}))).unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            edits.store(round, Ordering::Release);
        }
        done.store(true, Ordering::Release);
        let reads: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(reads > 100, "the readers hardly read: {reads}");
    });
}

#[test]
fn a_link_created_after_a_404_is_there_at_once() {
    let shunt = kit::shared();
    for round in 0..20 {
        let code = format!("soon{round}");
        for _ in 0..3 {
            assert_eq!(kit::get(shunt, &format!("/{code}")).status, 404);
        }
        kit::link(shunt, &code, "https://example.com/now");
        kit::leads(shunt, &code, "https://example.com/now");
    }
}

/// Many clients race for one code: one gets it, and the code leads where that one said.
#[test]
fn one_slug_has_one_winner() {
    let shunt = Shunt::started().unwrap();
    for round in 0..kit::count(600) {
        let code = format!("slug{round}");
        let winners: Vec<String> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|racer| {
                    let (shunt, code) = (&shunt, &code);
                    scope.spawn(move || {
                        let target = format!("https://example.com/{racer}");
                        let answer = kit::create(shunt, &json!({"code": code, "target": target}));
                        assert!(matches!(answer.status, 201 | 409), "{answer:?}");
                        (answer.status == 201).then_some(target)
                    })
                })
                .collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1, "{code}: {winners:?}");
        kit::leads(&shunt, &code, &winners[0]);
    }
}
