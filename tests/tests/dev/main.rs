//! `shunt dev` as a person uses it: the whole reference architecture is started, broken and healed.
//!
//! Each bring-up costs some seconds of both cores, so one test goes the whole way.

#![expect(clippy::unwrap_used, reason = "every function here is a test or part of one")]

mod kit;
mod life;
mod shards;

use shunt_cluster::Shunt;

use kit::SOON;

#[test]
fn without_a_cluster_the_commands_say_how_to_start_one() {
    let shunt = Shunt::new().unwrap();
    let dir = shunt.files().join("none");
    let dir = dir.to_str().unwrap();
    for command in [&["status"][..], &["kill", "redis-1"], &["heal"]] {
        let words = ["dev", "--dir", dir].into_iter().chain(command.iter().copied());
        let answer = shunt.cli(words, SOON).unwrap();
        assert_eq!(answer.code(), 69, "{answer:?}");
        assert!(answer.stderr.contains(&format!("shunt dev up --dir {dir}")), "{answer:?}");
    }
    let down = shunt.cli(["dev", "--dir", dir, "down", "--purge"], SOON).unwrap();
    assert_eq!(down.code(), 66, "{down:?}");
    assert!(down.stderr.contains("holds no local cluster"), "{down:?}");
}

#[test]
fn a_directory_that_can_not_be_used_is_told_at_once() {
    let shunt = Shunt::new().unwrap();
    let long = shunt.files().join("a".repeat(80));
    let words = ["dev", "up", "--dir", long.to_str().unwrap()];
    let answer = shunt.cli(words, SOON).unwrap();
    assert_eq!(answer.code(), 69, "{answer:?}");
    assert!(answer.stderr.contains("choose another --dir"), "{answer:?}");

    // It would be removed with the cluster.
    let mine = shunt.files().join("mine");
    std::fs::create_dir(&mine).unwrap();
    std::fs::write(mine.join("thesis.txt"), "").unwrap();
    let answer = shunt.cli(["dev", "up", "--detach", "--dir", mine.to_str().unwrap()], SOON);
    let answer = answer.unwrap();
    assert_eq!(answer.code(), 69, "{answer:?}");
    assert!(answer.stderr.contains("thesis.txt"), "{answer:?}");
    assert_eq!(std::fs::read_dir(&mine).unwrap().count(), 1);

    let part = shunt.cli(["dev", "up", "--without", "postgres"], SOON).unwrap();
    assert_eq!(part.code(), 64, "{part:?}");
    assert!(part.stderr.contains("pgbouncer, redis, kafka, haproxy"), "{part:?}");
}
