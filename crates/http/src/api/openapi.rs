//! The OpenAPI 3.1 document, generated from the handlers and their types.
//!
//! What all operations share (how to authenticate, what can go wrong) is added here from one
//! table, so that no handler can forget it.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{admin, bulk, dialects, dto, export, links, stats};
use crate::app::AppState;
use crate::problem::{PROBLEM_JSON, ProblemBody};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "shunt",
        description = "Makes short links, follows them and counts the clicks.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    components(schemas(
        ProblemBody,
        dto::ExportRow,
        bulk::RowResult,
        bulk::Progress,
        bulk::SummaryLine,
    )),
    tags(
        (name = "links", description = "Make, read, change, delete and move links."),
        (name = "stats", description = "Clicks."),
        (name = "keys", description = "API keys; for admins."),
        (name = "domains", description = "Short-link domains; for admins."),
        (name = "reference contracts", description = "Small APIs that other programs speak."),
    ),
)]
struct Document;

/// The documented routes.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(links::create, links::list))
        .routes(routes!(bulk::batch))
        .routes(routes!(bulk::import))
        .routes(routes!(export::export))
        .routes(routes!(links::get, links::patch, links::delete))
        .routes(routes!(stats::link_stats))
        .routes(routes!(admin::list_keys, admin::create_key))
        .routes(routes!(admin::revoke_key))
        .routes(routes!(admin::list_domains, admin::create_domain))
        .routes(routes!(dialects::create_url))
        .routes(routes!(dialects::create_short))
}

/// The document, pretty-printed, with a final line break.
pub fn openapi_json() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        // Our own document always serialises.
        let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
        text.push('\n');
        text
    });
    &TEXT
}

fn document() -> Value {
    let mut document = serde_json::to_value(routes().into_openapi()).unwrap_or_default();
    if let Some(paths) = document.pointer_mut("/paths").and_then(Value::as_object_mut) {
        paths.insert("/api/urls/{code}".to_owned(), json!({ "get": redirect_operation() }));
        for (path, item) in paths.iter_mut() {
            let Some(item) = item.as_object_mut() else { continue };
            for (method, operation) in item.iter_mut() {
                if let Some(operation) = operation.as_object_mut() {
                    complete(path, method, operation);
                }
            }
        }
    }
    if let Some(schemas) =
        document.pointer_mut("/components/schemas").and_then(Value::as_object_mut)
    {
        merge_flattened(schemas);
        for name in COMPLETE_VIEWS {
            if let Some(schema) = schemas.get_mut(*name).and_then(Value::as_object_mut) {
                let names: Vec<Value> = schema
                    .get("properties")
                    .and_then(Value::as_object)
                    .map(|fields| fields.keys().cloned().map(Value::String).collect())
                    .unwrap_or_default();
                schema.insert("required".to_owned(), Value::Array(names));
            }
        }
        schemas.insert(
            "RedirectStatus".to_owned(),
            json!({
                "description": "301, 302, 307 or 308.",
                "type": "integer",
                "enum": [301, 302, 307, 308],
            }),
        );
    }
    if let Some(components) = document.pointer_mut("/components").and_then(Value::as_object_mut) {
        components.insert(
            "securitySchemes".to_owned(),
            json!({
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key: `Authorization: Bearer shunt_…`.",
                },
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Api-Key",
                    "description": "The same API key in a header of its own.",
                },
            }),
        );
    }
    document
}

/// Answers whose fields are always there, null or not.
const COMPLETE_VIEWS: &[&str] =
    &["ExportedLink", "KeyView", "LinkPage", "LinkStats", "LinkView", "NewKey", "TombstoneView"];

/// Turns `allOf` of another object and some more fields into one object: the other one says that
/// it has no further fields, so both together would allow nothing.
fn merge_flattened(schemas: &mut Map<String, Value>) {
    let names: Vec<String> = schemas.keys().cloned().collect();
    for name in names {
        let Some(parts) = schemas.get(&name).and_then(|schema| schema["allOf"].as_array()) else {
            continue;
        };
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for part in parts {
            let target = part["$ref"].as_str().and_then(|path| path.rsplit('/').next());
            let part = target.and_then(|target| schemas.get(target)).unwrap_or(part);
            if let Some(fields) = part["properties"].as_object() {
                properties.extend(fields.clone());
            }
            required.extend(part["required"].as_array().cloned().unwrap_or_default());
        }
        let merged = json!({
            "type": "object",
            "description": schemas.get(&name).map(|schema| schema["description"].clone()),
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        schemas.insert(name, merged);
    }
}

/// A header or parameter is there or not; it is never null.
fn never_null(holder: &mut Value) {
    let Some(kinds) = holder.pointer_mut("/schema/type") else { return };
    if let Some(one) = kinds.as_array().and_then(|kinds| kinds.iter().find(|kind| **kind != "null"))
    {
        *kinds = one.clone();
    }
}

/// Answered by the listener and not by a handler, so it is described by hand.
fn redirect_operation() -> Value {
    let location = json!({
        "Location": { "description": "The target.", "schema": { "type": "string" } },
    });
    let redirect = |text: &str| json!({ "description": text, "headers": location.clone() });
    let page = |text: &str| {
        json!({
            "description": text,
            "content": {
                "text/html": { "schema": { "type": "string" } },
                "text/plain": { "schema": { "type": "string" } },
                PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" } },
            },
        })
    };
    json!({
        "tags": ["reference contracts"],
        "operationId": "followUrl",
        "summary": "Follows a short link (reference contract).",
        "parameters": [{
            "name": "code",
            "in": "path",
            "required": true,
            "description": "The code.",
            "schema": { "type": "string", "pattern": "^[0-9A-Za-z_-]{1,128}$" },
        }],
        "responses": {
            "200": page("A preview: the target's host can be mistaken for another."),
            "301": redirect("A permanent redirect, if the link says so."),
            "302": redirect("The redirect."),
            "307": redirect("A redirect that keeps the method, if the link says so."),
            "308": redirect("A permanent one that keeps the method, if the link says so."),
            "404": page("There is no such link, or it is not yet valid."),
            "410": page("Expired, used up, disabled or deleted."),
            "429": page("Too many links that do not exist were asked for from here."),
            "503": page("The store is unavailable."),
        },
    })
}

/// What can go wrong with any request, and with some.
fn problems(path: &str, method: &str, has_body: bool) -> Vec<(&'static str, &'static str)> {
    let creates = matches!(path, "/api/v1/links" | "/api/urls" | "/api/short") && method == "post";
    let writes = method != "get";
    let mut all = vec![
        ("400", "A value, field or parameter breaks a rule; `field` names it."),
        ("401", "No API key, or not a good one."),
        (
            "403",
            if creates {
                "The API key lacks the scope, or the request comes from another site's page."
            } else {
                "The API key lacks the scope."
            },
        ),
        (
            "429",
            if creates || path == "/api/v1/links:batch" {
                "Too many links, or too many bad credentials, from here."
            } else {
                "Too many bad credentials from here."
            },
        ),
        ("501", "The store has no such function."),
        ("503", "The store gave no answer, or it is not known whether this was done; see `code`."),
    ];
    if path.contains('{') {
        all.push(("404", "There is no such thing, or it is somebody else's."));
    }
    if has_body {
        all.push(("408", "The body did not arrive in time."));
        all.push(("413", "The body, or a row of it, is too large."));
        all.push(("415", "The body is of another media type."));
    }
    if writes {
        all.push((
            "409",
            "Taken, retired or immutable; or a request with the same idempotency \
            key is still running.",
        ));
        all.push(("422", "The idempotency key was used for another request."));
        all.push(("507", "The disk is full, or the code space is used up."));
    }
    if path == "/api/v1/links/{code}" && writes {
        all.push(("412", "The link has another version than `If-Match` names."));
    }
    all
}

fn complete(path: &str, method: &str, operation: &mut Map<String, Value>) {
    if path == "/api/urls/{code}" {
        operation.insert("security".to_owned(), json!([{}]));
        return;
    }
    let creates = matches!(path, "/api/v1/links" | "/api/urls" | "/api/short") && method == "post";
    let mut security = vec![json!({ "bearer": [] }), json!({ "apiKey": [] })];
    if creates {
        security.push(json!({}));
    }
    operation.insert("security".to_owned(), Value::Array(security));
    for parameter in
        operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten()
    {
        never_null(parameter);
    }
    let has_body = operation.contains_key("requestBody");
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else {
        return;
    };
    for response in responses.values_mut() {
        let headers = response.get_mut("headers").and_then(Value::as_object_mut);
        headers.into_iter().flat_map(Map::values_mut).for_each(never_null);
    }
    for (status, description) in problems(path, method, has_body) {
        let mut response = json!({
            "description": description,
            "content": {
                PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" } },
            },
        });
        let headers: &[(&str, &str)] = match status {
            "401" => &[("WWW-Authenticate", "How to authenticate.")],
            "412" => &[("ETag", "The link's version now.")],
            "429" => &[
                ("Retry-After", "Seconds to wait."),
                ("RateLimit", "What is left: `r` uses, all of them again in `t` seconds."),
                ("RateLimit-Policy", "What is allowed: `q` uses in `w` seconds."),
            ],
            "503" => &[("Retry-After", "Seconds to wait.")],
            _ => &[],
        };
        for (name, text) in headers {
            response["headers"][name] =
                json!({ "description": text, "schema": { "type": "string" } });
        }
        responses.insert(status.to_owned(), response);
    }
}
