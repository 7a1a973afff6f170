//! One effect per idempotency key: repeated, concurrent, broken off at every step.

use std::time::Duration;

use serde_json::{Value, json};
use shunt_domain::{Code, DomainId, LinkKey, Scope};

use crate::kit::{Answer, Ask, Fault, Op, Setup, TIMEOUT, World, problem};

const TARGET: &str = "https://example.com/page";
const KEY: &str = "6f1d2c34-9b7a-4a53-8f0e-2d8a6f1b7c55";

fn create() -> Ask {
    Ask::post("/api/v1/links", &json!({"target": TARGET})).once(KEY)
}

fn custom() -> Ask {
    Ask::post("/api/v1/links", &json!({"target": TARGET, "code": "sale"})).once(KEY)
}

/// How many links there are.
async fn count(world: &World) -> usize {
    let admin = world.admin().await;
    let export = world.send(Ask::get("/api/v1/links:export").key(&admin)).await;
    export.lines().iter().filter(|row| row.get("deleted_at").is_none()).count()
}

/// A service over one database, and one over stores that keep links and key rows apart.
async fn both() -> [World; 2] {
    [World::new().await, World::in_steps().await]
}

/// Past the lease of an attempt that came to no end.
fn wait(world: &World) {
    world.clock.forward(TIMEOUT + Duration::from_secs(1));
}

#[tokio::test]
async fn a_repeated_create_is_answered_byte_for_byte() {
    for (ask, steps) in [(create(), false), (custom(), false), (create(), true), (custom(), true)] {
        let world = World::with(Setup { in_steps: steps, ..Setup::default() }).await;
        let first = world.send(ask.clone()).await;
        assert_eq!((first.status.as_u16(), first.replayed()), (201, false));
        world.clock.forward(Duration::from_secs(23 * 3600));
        for _ in 0..3 {
            let again = world.send(ask.clone()).await;
            assert!(again.replayed());
            assert_eq!((again.status, &again.body), (first.status, &first.body));
            for header in ["location", "etag", "content-type"] {
                assert_eq!(again.text_header(header), first.text_header(header));
            }
        }
        assert_eq!(count(&world).await, 1);
    }
}

#[tokio::test]
async fn a_key_stands_for_one_request_of_one_caller() {
    let world = World::new().await;
    world.send(create()).await;
    let other = Ask::post("/api/v1/links", &json!({"target": "https://example.com/"})).once(KEY);
    let reused = problem(422, "idempotency-key-reused", "Idempotency-Key");
    assert_eq!(world.send(other).await.problem(), reused);
    let spaced = create().body(format!("{{ \"target\": \"{TARGET}\" }}"));
    assert_eq!(world.send(spaced).await.problem(), reused, "the body counts byte by byte");
    // Other callers' keys are others.
    let (a, b) = (world.key(&[Scope::Create], None).await, world.key(&[Scope::Create], None).await);
    for key in [&a, &b] {
        let answer = world.send(create().key(key)).await;
        assert_eq!((answer.status.as_u16(), answer.replayed()), (201, false));
    }
    assert_eq!(count(&world).await, 3);
}

#[tokio::test]
async fn keys_have_a_form() {
    let world = World::new().await;
    let bad = problem(400, "bad-idempotency-key", "Idempotency-Key");
    let long = "x".repeat(256);
    for key in ["", "short-and-guessable", &long, "a b c d e f g h i j k l m", "ä"] {
        assert_eq!(world.send(create().once(key)).await.problem(), bad, "{key}");
    }
    let twice = create().and_header("idempotency-key", KEY);
    assert_eq!(world.send(twice).await.problem(), bad);
    let known = world.key(&[Scope::Create], None).await;
    assert_eq!(world.send(create().key(&known).once("1")).await.status, 201);
    assert_eq!(count(&world).await, 1);
}

#[tokio::test]
async fn refusals_are_not_stored() {
    for world in both().await {
        let taken = Ask::post("/api/v1/links", &json!({"target": TARGET, "code": "sale"}));
        world.send(taken).await;
        for _ in 0..2 {
            assert_eq!(world.send(custom()).await.problem(), problem(409, "taken", "code"));
        }
        let admin = world.admin().await;
        // A refusal by the store: the same key may try again at once.
        for op in [Op::Create, Op::CreateOnce] {
            world.faults.next(op, Fault::Refused);
        }
        assert_eq!(world.send(create()).await.problem().1, "unavailable");
        assert_eq!(world.send(create()).await.status, 201);
        // What was bad input before is good once the world has changed: nothing of it was kept.
        let later = Ask::post("/api/v1/links", &json!({"target": TARGET, "domain": "new.example"}))
            .once("another-key-of-22-chars");
        assert_eq!(world.send(later.clone()).await.problem().1, "unknown-domain");
        let domain = Ask::post("/api/v1/domains", &json!({"host": "new.example"})).key(&admin);
        world.send(domain).await;
        assert_eq!(world.send(later).await.status, 201);
    }
}

#[tokio::test]
async fn a_broken_off_create_is_made_once() {
    for ask in [create(), custom()] {
        for (op, fault, status) in [
            (Op::CreateOnce, Fault::LostAck, 503),
            (Op::CreateOnce, Fault::LostCall, 503),
            (Op::Create, Fault::LostAck, 503),
            (Op::Create, Fault::LostCall, 503),
            (Op::Begin, Fault::LostAck, 503),
            (Op::Begin, Fault::LostCall, 503),
            (Op::Complete, Fault::LostCall, 201),
            (Op::Complete, Fault::LostAck, 201),
        ] {
            for restart in [false, true] {
                let name = format!("{op:?} {fault:?} {restart}");
                let in_steps = op != Op::CreateOnce;
                let mut world = World::with(Setup { in_steps, ..Setup::default() }).await;
                world.faults.next(op, fault);
                let first = world.send(ask.clone()).await;
                assert_eq!(first.status.as_u16(), status, "{name}: {first:?}");
                assert_eq!(world.faults.bitten(), 1, "{name}: the fault did not bite");
                if status == 503 {
                    assert_eq!(first.problem(), problem(503, "outcome-unknown", ""));
                    assert!(first.text_header("retry-after").parse::<u64>().unwrap() > 0);
                }
                if restart {
                    world = world.restarted().await;
                } else {
                    wait(&world);
                }
                let second = world.send(ask.clone()).await;
                assert_eq!(second.status, 201, "{name}: {second:?}");
                if status == 201 {
                    assert_eq!(second.code(), first.code(), "{name}");
                }
                let third = world.send(ask.clone()).await;
                assert!(third.replayed(), "{name}");
                assert_eq!(third.code(), second.code(), "{name}");
                assert_eq!(count(&world).await, 1, "{name}");
            }
        }
    }
}

#[tokio::test]
async fn another_attempt_is_told_to_wait_while_one_may_be_running() {
    let world = World::in_steps().await;
    world.faults.next(Op::Create, Fault::LostCall);
    assert_eq!(world.send(create()).await.status, 503);
    let running = world.send(create()).await;
    assert_eq!(running.problem(), problem(409, "still-running", "Idempotency-Key"));
    assert_eq!(running.text_header("retry-after"), "1");
    wait(&world);
    assert_eq!(world.send(create()).await.status, 201);
}

#[tokio::test]
async fn concurrent_attempts_make_one_link() {
    for world in both().await {
        for ask in [create(), custom().once("custom-key-of-22-chars!")] {
            let answers =
                futures_util::future::join_all((0..16).map(|_| world.send(ask.clone()))).await;
            let (made, waiting): (Vec<&Answer>, Vec<&Answer>) =
                answers.iter().partition(|answer| answer.status == 201);
            assert!(!made.is_empty());
            assert!(waiting.iter().all(|answer| answer.problem().1 == "still-running"));
            let codes: std::collections::HashSet<String> =
                made.iter().map(|answer| answer.code()).collect();
            assert_eq!(codes.len(), 1);
            assert_eq!(made.iter().filter(|answer| !answer.replayed()).count(), 1);
        }
        assert_eq!(count(&world).await, 2);
    }
}

/// Made in one transaction, a link is known by its key whatever became of it since.
#[tokio::test]
async fn a_link_made_at_once_is_answered_as_it_was() {
    for gone in [false, true] {
        let world = World::new().await;
        world.faults.next(Op::CreateOnce, Fault::LostAck);
        assert_eq!(world.send(create()).await.status, 503);
        let admin = world.admin().await;
        let page = world.send(Ask::get("/api/v1/links").key(&admin)).await.json();
        let code = page["links"][0]["code"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/links/{code}");
        let change = if gone {
            Ask::new("DELETE", path)
        } else {
            Ask::new("PATCH", path).json(&json!({"target": "https://example.com/edited"}))
        };
        assert!(world.send(change.key(&admin)).await.status.is_success());
        let again = world.send(create()).await;
        assert_eq!((again.status.as_u16(), again.replayed()), (201, true));
        assert_eq!((again.code(), again.json()["target"].as_str()), (code, Some(TARGET)));
        assert_eq!(count(&world).await, usize::from(!gone));
    }
}

#[tokio::test]
async fn a_link_edited_before_the_retry_is_still_the_one() {
    let world = World::in_steps().await;
    world.faults.next(Op::Create, Fault::LostAck);
    world.send(create()).await;
    let admin = world.admin().await;
    let page = world.send(Ask::get("/api/v1/links").key(&admin)).await.json();
    let code = page["links"][0]["code"].as_str().unwrap().to_owned();
    let edit = json!({"target": "https://example.com/edited"});
    let patch = Ask::new("PATCH", format!("/api/v1/links/{code}")).key(&admin).json(&edit);
    assert_eq!(world.send(patch).await.status, 200);
    wait(&world);
    assert_eq!(world.send(create()).await.code(), code);
    assert_eq!(count(&world).await, 1);
}

#[tokio::test]
async fn a_link_deleted_before_the_retry_is_not_made_again() {
    for ask in [create(), custom()] {
        let world = World::in_steps().await;
        world.faults.next(Op::Create, Fault::LostAck);
        world.send(ask.clone()).await;
        let admin = world.admin().await;
        let page = world.send(Ask::get("/api/v1/links").key(&admin)).await.json();
        let code = page["links"][0]["code"].as_str().unwrap().to_owned();
        world.send(Ask::new("DELETE", format!("/api/v1/links/{code}")).key(&admin)).await;
        wait(&world);
        assert_eq!(world.send(ask).await.problem(), problem(409, "code-retired", "code"));
        assert_eq!(count(&world).await, 0);
    }
}

#[tokio::test]
async fn a_clock_set_back_makes_no_second_link() {
    for restart in [false, true] {
        let mut world = World::in_steps().await;
        world.faults.next(Op::Create, Fault::LostCall);
        world.send(create()).await;
        if restart {
            world.clock.back(Duration::from_secs(3600));
            world = world.restarted().await;
        } else {
            wait(&world);
        }
        // The second attempt makes the link, and loses its acknowledgement too.
        world.faults.next(Op::Create, Fault::LostAck);
        assert_eq!(world.send(create()).await.status, 503);
        world = world.restarted().await;
        assert_eq!(world.send(create()).await.status, 201);
        assert_eq!(count(&world).await, 1);
    }
}

/// Somebody else takes the code that a key row has chosen, before the link is made.
#[tokio::test]
async fn a_chosen_code_taken_by_somebody_else_is_drawn_anew_or_told() {
    let world = World::in_steps().await;
    let theirs = world.key(&[Scope::Create], None).await;
    world.faults.next(Op::Create, Fault::LostCall);
    world.send(custom()).await;
    let body = json!({"target": "https://example.com/theirs", "code": "sale"});
    assert_eq!(world.send(Ask::post("/api/v1/links", &body).key(&theirs)).await.status, 201);
    wait(&world);
    assert_eq!(world.send(custom()).await.problem(), problem(409, "taken", "code"));
    // With the very same target it is still somebody else's.
    let world = World::in_steps().await;
    let theirs = world.key(&[Scope::Create], None).await;
    world.faults.next(Op::Create, Fault::LostCall);
    world.send(custom()).await;
    let body = json!({"target": TARGET, "code": "sale"});
    world.send(Ask::post("/api/v1/links", &body).key(&theirs)).await;
    wait(&world);
    assert_eq!(world.send(custom()).await.problem(), problem(409, "taken", "code"));
}

#[tokio::test]
async fn a_generated_code_that_collides_is_drawn_anew_with_the_key() {
    for in_steps in [false, true] {
        let codes = shunt_engine::codes::CodeSettings {
            alphabet: shunt_engine::codes::Alphabet::parse("ab").unwrap(),
            length: 3,
            max_length: 3,
            ..Default::default()
        };
        let world = World::with(Setup { codes, in_steps, ..Setup::default() }).await;
        let mut seen = std::collections::HashSet::new();
        for n in 0..8 {
            let answer = world.send(create().once(&format!("{KEY}-{n}"))).await;
            assert_eq!(answer.status, 201, "link {n}: {answer:?}");
            assert!(seen.insert(answer.code()));
            let again = world.send(create().once(&format!("{KEY}-{n}"))).await;
            assert_eq!((again.code(), again.replayed()), (answer.code(), true));
        }
    }
}

#[tokio::test]
async fn changes_are_made_once() {
    let world = World::new().await;
    let admin = world.admin().await;
    let body = json!({"target": TARGET, "code": "p"});
    world.send(Ask::post("/api/v1/links", &body).key(&admin)).await;
    let patch = |title: &str, key: &str| {
        Ask::new("PATCH", "/api/v1/links/p").key(&admin).json(&json!({"title": title})).once(key)
    };
    let first = world.send(patch("a", "1")).await;
    let again = world.send(patch("a", "1")).await;
    assert_eq!((first.text_header("etag"), &first.body), (again.text_header("etag"), &again.body));
    assert!(again.replayed());
    assert_eq!(world.send(patch("b", "1")).await.status, 422);
    // Done, and the acknowledgement lost: the retry finds the effect and makes no new version.
    world.faults.next(Op::Patch, Fault::LostAck);
    let lost = patch("c", "2").header("if-match", "\"2\"");
    assert_eq!(world.send(lost.clone()).await.status, 503);
    wait(&world);
    let found = world.send(lost.clone()).await;
    assert_eq!((found.status.as_u16(), found.text_header("etag")), (200, "\"3\""));
    assert!(world.send(lost).await.replayed());
    // Never arrived: the retry does it.
    world.faults.next(Op::Patch, Fault::LostCall);
    assert_eq!(world.send(patch("d", "3")).await.status, 503);
    wait(&world);
    let done = world.send(patch("d", "3")).await;
    assert_eq!((done.json()["title"].clone(), done.text_header("etag")), (json!("d"), "\"4\""));
    // Changed by somebody else meanwhile: If-Match decides, as without a key.
    world.faults.next(Op::Patch, Fault::LostCall);
    let guarded = patch("e", "4").header("if-match", "\"4\"");
    assert_eq!(world.send(guarded.clone()).await.status, 503);
    world.send(patch("f", "5")).await;
    wait(&world);
    assert_eq!(world.send(guarded).await.problem(), problem(412, "stale", "If-Match"));
}

#[tokio::test]
async fn deletions_are_made_once() {
    let world = World::new().await;
    let admin = world.admin().await;
    let make = |code: &str| {
        Ask::post("/api/v1/links", &json!({"target": TARGET, "code": code})).key(&admin)
    };
    let delete =
        |code: &str| Ask::new("DELETE", format!("/api/v1/links/{code}")).key(&admin).once(code);
    for (code, fault) in [("d1", Fault::None), ("d2", Fault::LostAck), ("d3", Fault::LostCall)] {
        world.send(make(code)).await;
        world.faults.next(Op::Delete, fault);
        let first = world.send(delete(code)).await;
        assert_eq!(first.status.as_u16(), if fault == Fault::None { 204 } else { 503 });
        wait(&world);
        assert_eq!(world.send(delete(code)).await.status, 204, "{code}");
        assert!(world.send(delete(code)).await.replayed(), "{code}");
        // Without the key, twice is 404.
        let bare = Ask::new("DELETE", format!("/api/v1/links/{code}")).key(&admin);
        assert_eq!(world.send(bare).await.status, 404);
    }
    // Deleted by somebody else before the first attempt began: that is no success.
    world.send(make("d4")).await;
    world.send(Ask::new("DELETE", "/api/v1/links/d4").key(&admin)).await;
    wait(&world);
    assert_eq!(world.send(delete("d4")).await.status, 404);
}

#[tokio::test]
async fn keys_and_domains_are_made_once_and_no_secret_is_stored() {
    let world = World::new().await;
    let admin = world.admin().await;
    let ask = || {
        let body = json!({"name": "ci", "scopes": ["create"]});
        Ask::post("/api/v1/keys", &body).key(&admin).once("k")
    };
    let first = world.send(ask()).await;
    assert_eq!(first.status, 201, "{first:?}");
    let secret = first.json()["secret"].as_str().unwrap().to_owned();
    let again = world.send(ask()).await;
    assert!(again.replayed());
    assert_eq!((&again.json()["id"], &again.json()["secret"]), (&first.json()["id"], &Value::Null));
    // Nowhere in the files, log included.
    for file in std::fs::read_dir(world.store.dir()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap_or_default();
        for needle in [&secret, &admin] {
            let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!found, "a secret is on the disk");
        }
    }
    // The answer was lost before it could be stored.
    let ask = ask().once("k2");
    world.faults.next(Op::Complete, Fault::LostCall);
    let first = world.send(ask.clone()).await;
    wait(&world);
    let again = world.send(ask).await;
    assert!(again.replayed());
    assert_eq!(again.json()["id"], first.json()["id"]);
    let domain =
        || Ask::post("/api/v1/domains", &json!({"host": "a.example"})).key(&admin).once("d");
    let first = world.send(domain()).await;
    let again = world.send(domain()).await;
    assert_eq!((first.status, first.json()), (again.status, again.json()));
    assert!(again.replayed());
    let id = first_key_id(&world, &admin).await;
    let revoke = || Ask::new("DELETE", format!("/api/v1/keys/{id}")).key(&admin).once("r");
    assert_eq!(world.send(revoke()).await.status, 204);
    assert!(world.send(revoke()).await.replayed());
}

async fn first_key_id(world: &World, admin: &str) -> u64 {
    let keys = world.send(Ask::get("/api/v1/keys").key(admin)).await.json();
    let keys = keys["keys"].as_array().unwrap();
    keys.iter().find(|key| key["name"] == "ci").unwrap()["id"].as_u64().unwrap()
}

/// P3 in small: ambiguous creates, each retried until it is answered.
#[tokio::test]
async fn every_ambiguous_create_ends_as_exactly_one_link() {
    for world in both().await {
        let rounds = 100;
        let mut codes = std::collections::HashSet::new();
        for n in 0..rounds {
            let ask = create().once(&format!("{KEY}-{n}"));
            let fault = [Fault::LostAck, Fault::LostCall, Fault::Refused][n % 3];
            for op in [Op::Create, Op::Begin, Op::Complete] {
                world.faults.next(op, if n % 7 == 0 { fault } else { Fault::None });
            }
            for op in [Op::Create, Op::CreateOnce] {
                world.faults.next(op, fault);
            }
            let mut answer = world.send(ask.clone()).await;
            for _ in 0..10 {
                if answer.status == 201 {
                    break;
                }
                wait(&world);
                answer = world.send(ask.clone()).await;
            }
            assert!(codes.insert(answer.code()), "two keys, one link");
        }
        assert_eq!(count(&world).await, rounds);
        for code in &codes {
            let key = LinkKey::new(DomainId::DEFAULT, Code::parse(code).unwrap());
            assert!(world.app.resolver.read(&key).await.unwrap().is_some());
        }
    }
}
