//! The description: frozen, complete, and true to the parser.

use serde_json::{Value, json};

use crate::kit::{Ask, World};

fn document() -> Value {
    serde_json::from_str(shunt_http::api::openapi_json()).unwrap()
}

#[test]
fn the_description_is_the_committed_one() {
    let file = shunt_tests::tree::root().join("docs/openapi.json");
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let now = shunt_http::api::openapi_json();
    let differs = committed.lines().zip(now.lines()).position(|(old, new)| old != new);
    let first = differs.unwrap_or_else(|| committed.lines().count().min(now.lines().count()));
    assert!(
        committed == now,
        "docs/openapi.json differs from the code, first in line {}:\n  committed: {:?}\n  now:       {:?}\n\
         If the API was meant to change, write it anew and review the difference:\n  \
         cargo run -p shunt-http --example openapi > docs/openapi.json",
        first + 1,
        committed.lines().nth(first),
        now.lines().nth(first),
    );
}

#[tokio::test]
async fn the_description_is_served() {
    let world = World::new().await;
    let answer = world.send(Ask::get("/openapi.json")).await;
    assert_eq!(answer.text_header("content-type"), "application/json");
    assert_eq!(answer.body, shunt_http::api::openapi_json());
}

#[test]
fn every_operation_says_how_it_fails() {
    let document = document();
    assert_eq!(document["openapi"].as_str().unwrap().get(..3), Some("3.1"));
    let mut ids = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{name}");
            assert!(operation["security"].is_array(), "{name}");
            if path == "/api/urls/{code}" {
                continue;
            }
            let responses = operation["responses"].as_object().unwrap();
            for status in ["400", "401", "403", "503"] {
                assert!(responses.contains_key(status), "{name} {status}");
            }
            for (status, response) in
                responses.iter().filter(|(status, _)| status.as_str() >= "400")
            {
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{name} {status}");
            }
            if operation.get("requestBody").is_some() {
                assert!(responses.contains_key("413") && responses.contains_key("415"), "{name}");
            }
        }
    }
}

/// Every field the description has is read, and none that it has not: a body with all of them is
/// accepted, and each is refused under another name.
#[tokio::test]
async fn the_described_fields_are_those_the_parser_reads() {
    let document = document();
    let world = World::new().await;
    let admin = world.admin().await;
    let body = json!({"target": "https://example.com/", "code": "victim"});
    world.send(Ask::post("/api/v1/links", &body).key(&admin)).await;
    for (schema, method, uri) in [
        ("LinkCreate", "POST", "/api/v1/links"),
        ("LinkPatch", "PATCH", "/api/v1/links/victim"),
        ("KeyCreate", "POST", "/api/v1/keys"),
        ("DomainCreate", "POST", "/api/v1/domains"),
        ("UrlCreate", "POST", "/api/urls"),
        ("ShortCreate", "POST", "/api/short"),
    ] {
        let schema_body = &document["components"]["schemas"][schema];
        assert_eq!(schema_body["additionalProperties"], false, "{schema}");
        let fields = schema_body["properties"].as_object().unwrap();
        let mut whole = json!({});
        for name in fields.keys() {
            whole[name] = match name.as_str() {
                "target" | "longUrl" | "longurl" => json!("https://example.com/page"),
                "domain" | "host" => json!("go.example"),
                "tags" => json!(["a"]),
                "scopes" => json!(["read"]),
                "valid_from" => json!("2026-12-01T00:00:00Z"),
                "expires_at" => json!("2027-12-01T00:00:00Z"),
                "max_clicks" | "owner" => json!(5),
                "status_code" => json!(301),
                "forward_query" | "enabled" => json!(true),
                _ => json!("text"),
            };
        }
        let ask = |body: &Value| Ask::new(method, uri).key(&admin).json(body);
        let answer = world.send(ask(&whole)).await;
        assert!(answer.status.is_success(), "{schema}: {answer:?}");
        let required = schema_body["required"].as_array().cloned().unwrap_or_default();
        for name in required {
            let mut without = whole.clone();
            without.as_object_mut().unwrap().remove(name.as_str().unwrap());
            let answer = world.send(ask(&without)).await;
            let expected = crate::kit::problem(400, "missing-field", name.as_str().unwrap());
            assert_eq!(answer.problem(), expected, "{schema}");
        }
        // Null where the description allows it, and only there.
        for (name, property) in fields {
            let text = property.to_string();
            let nullable = text.contains("\"null\"");
            let mut nulled = whole.clone();
            nulled[name] = Value::Null;
            if name == "code" || nulled.get("code").is_some() {
                nulled["code"] = Value::Null;
            }
            let answer = world.send(ask(&nulled)).await;
            assert_eq!(answer.status.is_success(), nullable, "{schema}.{name}: {answer:?}");
        }
    }
}

/// Answers have the shape that is described, field by field.
#[tokio::test]
async fn answers_have_the_described_fields() {
    let document = document();
    let world = World::new().await;
    let admin = world.admin().await;
    let schema_fields = |name: &str| -> Vec<String> {
        let fields = &document["components"]["schemas"][name]["properties"];
        fields.as_object().unwrap().keys().cloned().collect()
    };
    let fields = |value: &Value| -> Vec<String> {
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let body = json!({"target": "https://example.com/", "code": "a"});
    let link = world.send(Ask::post("/api/v1/links", &body).key(&admin)).await.json();
    assert_eq!(fields(&link), sorted(schema_fields("LinkView")));
    let stats = world.send(Ask::get("/api/v1/links/a/stats").key(&admin)).await.json();
    assert_eq!(fields(&stats), sorted(schema_fields("LinkStats")));
    let keys = world.send(Ask::get("/api/v1/keys").key(&admin)).await.json();
    assert_eq!(fields(&keys["keys"][0]), sorted(schema_fields("KeyView")));
    let taken = world.send(Ask::post("/api/v1/links", &body).key(&admin)).await.json();
    assert_eq!(fields(&taken), sorted(schema_fields("Problem")));
}
