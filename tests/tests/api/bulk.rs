//! Batches, imports and exports: streamed both ways, row by row, repeatable.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use shunt_domain::Scope;
use tower::ServiceExt;

use crate::kit::{Answer, Ask, Fault, Op, TIMEOUT, World, problem};

const NDJSON: &str = "application/x-ndjson";

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn batch(key: &str, rows: &[Value]) -> Ask {
    Ask::new("POST", "/api/v1/links:batch")
        .key(key)
        .header("content-type", NDJSON)
        .body(lines(rows))
}

fn import(key: &str, body: String) -> Ask {
    Ask::new("POST", "/api/v1/links:import").key(key).header("content-type", NDJSON).body(body)
}

fn summary(answer: &Answer) -> Value {
    answer.lines().last().unwrap()["summary"].clone()
}

async fn export(world: &World, key: &str) -> String {
    let answer = world.send(Ask::get("/api/v1/links:export").key(key)).await;
    assert_eq!(answer.text_header("content-type"), NDJSON);
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test]
async fn every_row_gets_its_result_and_bad_ones_do_not_hinder_the_rest() {
    let world = World::new().await;
    let key = world.key(&[Scope::Create, Scope::Read], None).await;
    let rows = [
        json!({"target": "https://example.com/1", "code": "b1"}),
        json!({"target": "javascript:alert(1)"}),
        json!({"target": "https://example.com/3", "code": "b1"}),
        json!({"target": "https://example.com/4", "colour": "red"}),
        json!({"target": 5}),
        json!("nonsense"),
        json!({"target": "https://example.com/7", "code": "api"}),
        json!({"target": "https://example.com/8"}),
    ];
    let expected = [
        (201, "", ""),
        (400, "scheme-dangerous", "target"),
        (409, "taken", "code"),
        (400, "unknown-field", "colour"),
        (400, "wrong-type", "target"),
        (400, "wrong-type", "body"),
        (400, "reserved-code", "code"),
        (201, "", ""),
    ];
    let array = Ask::post("/api/v1/links:batch", &json!(rows)).key(&key);
    for (round, ask) in [batch(&key, &rows), array].into_iter().enumerate() {
        let answer = world.send(ask).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let results = answer.lines();
        assert_eq!(results.len(), rows.len() + 1);
        for (at, (row, (status, code, field))) in results.iter().zip(expected).enumerate() {
            assert_eq!(row["row"], at + 1);
            // The second time, the wanted code is taken from the start.
            let again = round == 1 && at == 0;
            assert_eq!(row["status"], if again { 409 } else { status }, "{row}");
            if status != 201 {
                assert_eq!(
                    (&row["error"]["code"], &row["error"]["field"]),
                    (&json!(code), &json!(field))
                );
            }
        }
        let made = if round == 0 { 2 } else { 1 };
        let told = summary(&answer);
        assert_eq!(
            told,
            json!({"rows": 8, "created": made, "restored": 0, "exists": 0,
            "refused": 8 - made, "complete": true})
        );
    }
    let line =
        b"{\"target\":\"https://example.com/\"}\n{\"target\"\n{\"target\":\"https://a.example/\"}";
    let ask = batch(&key, &[]).body(Bytes::from_static(line));
    let answer = world.send(ask).await;
    let statuses: Vec<Value> = answer.lines().iter().map(|row| row["status"].clone()).collect();
    assert_eq!(statuses, [json!(201), json!(400), json!(201), Value::Null]);
}

#[tokio::test]
async fn what_is_no_list_at_all_gets_a_status_of_its_own() {
    let world = World::new().await;
    let key = world.admin().await;
    for uri in ["/api/v1/links:batch", "/api/v1/links:import"] {
        for (body, status, code) in [
            ("{}", 400, "bad-json"),
            ("", 400, "bad-json"),
            ("[", 400, "bad-json"),
            ("[,]", 400, "bad-json"),
            (&format!("[\"{}\"]", "x".repeat(70_000)), 413, "row-too-large"),
        ] {
            let ask = Ask::new("POST", uri).key(&key).header("content-type", "application/json");
            let answer = world.send(ask.body(body.to_owned())).await;
            assert_eq!(answer.problem(), problem(status, code, "body"), "{body:.20}");
        }
        let form = Ask::new("POST", uri).key(&key).header("content-type", "text/csv").body("a,b");
        assert_eq!(world.send(form).await.status, 415);
        let empty = Ask::new("POST", uri).key(&key).json(&json!([]));
        assert_eq!(summary(&world.send(empty).await)["complete"], true);
    }
}

#[tokio::test]
async fn a_body_that_breaks_later_keeps_what_was_taken_in_and_says_so() {
    let world = World::new().await;
    let key = world.admin().await;
    let ask = Ask::new("POST", "/api/v1/links:batch").key(&key);
    let ask = ask.header("content-type", "application/json");
    let answer = world.send(ask.body("[{\"target\":\"https://example.com/\"} oops]")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.lines()[0]["status"], 201);
    let told = summary(&answer);
    assert_eq!((&told["complete"], &told["error"]["code"]), (&json!(false), &json!("bad-json")));
}

/// Results come while rows still come in, and no more than a chunk is held.
#[tokio::test]
async fn rows_and_results_are_streamed() {
    let world = World::new().await;
    let key = world.admin().await;
    let (send, receive) = tokio::sync::mpsc::channel::<Bytes>(1);
    let pieces = futures_util::stream::unfold(receive, |mut receive| async move {
        let piece = receive.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), receive))
    });
    let (parts, _) = batch(&key, &[]).request().into_parts();
    let request = http::Request::from_parts(parts, axum::body::Body::from_stream(pieces));
    let router = shunt_http::api::router(world.app.clone());
    let row = "{\"target\":\"https://example.com/\"}\n";
    let feeding = tokio::spawn(async move {
        for _ in 0..1_000 {
            send.send(Bytes::from_static(row.as_bytes())).await.unwrap();
        }
        send
    });
    // A thousand rows are in, the body has no end yet: their results are here.
    let response = router.oneshot(request).await.unwrap();
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.iter().filter(|byte| **byte == b'\n').count(), 1_000);
    let send = feeding.await.unwrap();
    send.send(Bytes::from_static(row.as_bytes())).await.unwrap();
    drop(send);
    let rest = body.collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&rest).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().next().unwrap().contains("\"row\":1001"));
}

#[tokio::test]
async fn a_repeated_batch_goes_on_where_the_first_one_ended() {
    let world = World::new().await;
    let key = world.key(&[Scope::Create, Scope::Read], None).await;
    let rows: Vec<Value> = (0..2_500)
        .map(|n| match n % 10 {
            0 => json!({"target": "https://example.com/", "code": format!("k{n}")}),
            9 => json!({"target": "data:x"}),
            _ => json!({"target": format!("https://example.com/{n}")}),
        })
        .collect();
    let ask = batch(&key, &rows).once("batch-1");
    // The second chunk is made, and its acknowledgement lost; the third never arrives.
    world.faults.next(Op::CreateMany, Fault::None);
    world.faults.next(Op::CreateMany, Fault::LostAck);
    world.faults.next(Op::CreateMany, Fault::LostCall);
    let first = world.send(ask.clone()).await;
    let statuses = |answer: &Answer, from: usize, to: usize| -> HashSet<u64> {
        let rows = answer.lines();
        rows[from..to].iter().map(|row| row["status"].as_u64().unwrap()).collect()
    };
    assert_eq!(statuses(&first, 0, 1_000), HashSet::from([201, 400]));
    assert_eq!(statuses(&first, 1_000, 2_500), HashSet::from([503, 400]));
    assert_eq!(world.faults.bitten(), 2);
    let world = world.restarted().await;
    let second = world.send(ask.clone()).await;
    assert_eq!(statuses(&second, 0, 2_500), HashSet::from([201, 400]));
    assert_eq!(summary(&second)["created"], 2_250);
    let codes = |answer: &Answer| -> Vec<Value> {
        answer.lines().iter().map(|row| row["code"].clone()).collect()
    };
    assert_eq!(codes(&first)[..1_000], codes(&second)[..1_000]);
    // The first chunk was answered from memory, the others were found or made.
    assert_eq!(second.lines()[0]["replayed"], true);
    assert_eq!(second.lines()[1_000].get("replayed"), None);
    let third = world.send(ask).await;
    assert_eq!(codes(&third), codes(&second));
    assert!(third.lines()[..2_500].iter().all(|row| row["replayed"] == true));
    let admin = world.admin().await;
    assert_eq!(export(&world, &admin).await.lines().count(), 2_250, "each link once");
    // Another body under the same key is refused as a whole, before anything is taken in.
    let other = batch(&key, &rows[..10]).once("batch-1");
    assert_eq!(world.send(other).await.problem().1, "idempotency-key-reused");
}

#[tokio::test]
async fn a_store_that_refuses_a_chunk_says_so_row_by_row() {
    let world = World::new().await;
    let key = world.admin().await;
    let rows = vec![json!({"target": "https://example.com/"}); 3];
    world.faults.next(Op::CreateMany, Fault::Refused);
    let ask = batch(&key, &rows).once("b");
    let refused = world.send(ask.clone()).await;
    assert!(refused.lines()[..3].iter().all(|row| row["status"] == 503), "{refused:?}");
    // It did not happen, so the same key may try again at once.
    assert_eq!(summary(&world.send(ask).await)["created"], 3);
}

#[tokio::test]
async fn a_batch_uses_a_small_space_up_and_then_says_so() {
    let alphabet = shunt_engine::codes::Alphabet::parse("abcdefgh").unwrap();
    let codes = shunt_engine::codes::CodeSettings {
        alphabet,
        length: 2,
        max_length: 2,
        ..Default::default()
    };
    let world = World::with(crate::kit::Setup { codes, ..Default::default() }).await;
    let key = world.admin().await;
    let rows = vec![json!({"target": "https://example.com/"}); 100];
    let answer = world.send(batch(&key, &rows)).await;
    let told = summary(&answer);
    assert_eq!((&told["created"], &told["refused"]), (&json!(64), &json!(36)), "{answer:?}");
    let full = answer.lines().iter().filter(|row| row["status"] == 507).count();
    assert_eq!(full, 36);
}

#[tokio::test]
async fn an_export_comes_back_the_same_and_a_second_time_changes_nothing() {
    let world = World::new().await;
    let admin = world.admin().await;
    let owner = world.key(&[Scope::Create, Scope::Read], Some(42)).await;
    for n in 0..300 {
        let body = json!({"target": format!("https://example.com/ü/{n}"), "code": format!("x{n}"),
            "title": "=cmd", "tags": ["a"], "max_clicks": 3, "status_code": 301});
        world.send(Ask::post("/api/v1/links", &body).key(&owner)).await;
    }
    let body = json!({"target": "https://example.com/d", "code": "x1", "domain": "go.example"});
    world.send(Ask::post("/api/v1/links", &body).key(&admin)).await;
    let soon = json!({"target": "https://example.com/e", "code": "old",
        "expires_at": "2026-11-22T06:00:10Z"});
    world.send(Ask::post("/api/v1/links", &soon).key(&owner)).await;
    let patch = Ask::new("PATCH", "/api/v1/links/x7").key(&owner).json(&json!({"enabled": false}));
    world.send(patch).await;
    world.send(Ask::new("DELETE", "/api/v1/links/x8").key(&owner)).await;
    world.clock.forward(Duration::from_secs(60));
    let text = export(&world, &admin).await;
    assert_eq!(text.lines().count(), 302);

    let other = World::new().await;
    other.clock.forward(Duration::from_secs(60));
    let admin = other.admin().await;
    let first = other.send(import(&admin, text.clone())).await;
    assert_eq!(
        summary(&first),
        json!({"rows": 302, "created": 0, "restored": 302, "exists": 0,
        "refused": 0, "complete": true}),
        "{first:?}"
    );
    assert_eq!(export(&other, &admin).await, text);
    let second = other.send(import(&admin, text.clone())).await;
    assert_eq!(
        summary(&second),
        json!({"rows": 302, "created": 0, "restored": 0, "exists": 302,
        "refused": 0, "complete": true}),
        "{second:?}"
    );
    assert_eq!(export(&other, &admin).await, text);
    // The tombstone keeps its code.
    let body = json!({"target": "https://example.com/", "code": "x8"});
    let reuse = other.send(Ask::post("/api/v1/links", &body)).await;
    assert_eq!(reuse.problem(), problem(409, "code-retired", "code"));
}

#[tokio::test]
async fn plain_rows_are_imported_and_only_refusals_are_told() {
    let world = World::new().await;
    let admin = world.admin().await;
    let rows = [
        json!({"target": "https://example.com/1", "code": "p1", "tags": ["T"]}),
        json!({"target": "http://user:pass@example.com/"}),
        json!({"target": "https://example.com/3", "code": "p1"}),
        json!({"target": "https://example.com/4", "code": "p4", "owner": 9}),
        json!({"code": "p5", "owner": 1, "version": 1, "created_at": "2020-01-01T00:00:00Z",
            "deleted_at": "2021-01-01T00:00:00Z"}),
    ];
    let body = lines(&rows);
    let answer = world.send(import(&admin, body.clone())).await;
    let told = answer.lines();
    let refused: Vec<(u64, String)> = told
        .iter()
        .filter_map(|line| {
            let code = line["error"]["code"].as_str()?.to_owned();
            Some((line["row"].as_u64()?, code))
        })
        .collect();
    let expected = [(2, "credentials"), (3, "taken"), (5, "bad-version")];
    assert_eq!(refused, expected.map(|(row, code)| (row, code.to_owned())));
    assert_eq!(told[told.len() - 2], json!({"done": 5}));
    assert_eq!(summary(&answer)["created"], 2);
    let again = world.send(import(&admin, body)).await;
    let told = summary(&again);
    assert_eq!(
        (&told["created"], &told["exists"], &told["refused"]),
        (&json!(0), &json!(2), &json!(3))
    );
    let link = world.send(Ask::get("/api/v1/links/p4").key(&admin)).await;
    assert_eq!(link.json()["owner"], 9);
}

#[tokio::test]
async fn rows_without_codes_are_imported_once_per_key() {
    let world = World::new().await;
    let admin = world.admin().await;
    let rows: Vec<Value> =
        (0..50).map(|n| json!({"target": format!("https://example.com/{n}")})).collect();
    let ask = import(&admin, lines(&rows)).once("i");
    world.faults.next(Op::CreateMany, Fault::LostAck);
    let first = world.send(ask.clone()).await;
    assert_eq!(summary(&first)["refused"], 50);
    world.clock.forward(TIMEOUT + Duration::from_secs(1));
    assert_eq!(summary(&world.send(ask.clone()).await)["created"], 50);
    assert_eq!(summary(&world.send(ask).await)["created"], 50);
    assert_eq!(export(&world, &admin).await.lines().count(), 50);
}

#[tokio::test]
async fn a_million_bytes_of_rows_are_a_chunk_however_few_they_are() {
    let world = World::new().await;
    let admin = world.admin().await;
    let target = format!("https://example.com/{}", "x".repeat(8_000));
    let rows = vec![json!({"target": target}); 300];
    let answer = world.send(import(&admin, lines(&rows))).await;
    let progress: Vec<u64> =
        answer.lines().iter().filter_map(|line| line["done"].as_u64()).collect();
    assert_eq!(progress.len(), 3, "{progress:?}");
    assert_eq!(summary(&answer)["created"], 300);
}
