//! `/api/v1/keys` and `/api/v1/domains`: for admins.

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::LOCATION;
use http::request::Parts;
use shunt_domain::ports::ApiKey;
use shunt_domain::{ApiKeyId, OwnerId, Scope, Scopes, Timestamp};
use shunt_engine::auth::{AuthError, KeyRequest, Secret};
use shunt_engine::idempotency::{Answer, Attempt, Begun, MayBeDone, Once};
use shunt_engine::links::{FieldError, LinkError, MAX_CLICKS};

use super::answer::{self, Rendered};
use super::body::{self, JSON};
use super::caller;
use super::dto::{DomainBody, DomainList, DomainView, KeyBody, KeyList, KeyView, NewKey};
use super::json::Fields;
use super::query::Params;
use crate::app::{App, AppState};
use crate::problem::Problem;

/// How often a key row of an attempt that came to nothing is replaced.
const TRIES: usize = 3;

impl MayBeDone for Problem {
    fn may_be_done(&self) -> bool {
        self.code() == "outcome-unknown"
    }
}

async fn body_of(
    app: &App,
    parts: &Parts,
    body: axum::body::Body,
) -> Result<bytes::Bytes, Problem> {
    Params::parse(&parts.uri, &[])?;
    body::media_type(&parts.headers, &[JSON])?;
    let settings = &app.settings;
    body::read(&parts.headers, body, settings.max_body, settings.request_timeout).await
}

/// Lists the API keys; their secrets are stored nowhere.
#[utoipa::path(
    get,
    path = "/api/v1/keys",
    tag = "keys",
    operation_id = "listKeys",
    responses((status = 200, description = "All keys.", body = KeyList)),
)]
pub(crate) async fn list_keys(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let deadline = app.deadline();
    caller::with_scope(&app, &parts, Scope::Admin, deadline).await?;
    body::none(&parts.headers)?;
    Params::parse(&parts.uri, &[])?;
    let keys = app.auth.keys(deadline).await?;
    let list = KeyList { keys: keys.iter().map(KeyView::of).collect() };
    Ok(Rendered::json(StatusCode::OK, &list).into_response(false))
}

/// Makes an API key. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post,
    path = "/api/v1/keys",
    tag = "keys",
    operation_id = "createKey",
    params(("Idempotency-Key" = Option<String>, Header, description = "See `createLink`. A \
        repeated request is answered without the secret.", min_length = 1, max_length = 255,
        pattern = "^[!-~]+$")),
    request_body(content = KeyBody, content_type = "application/json"),
    responses((status = 201, description = "Made.", body = NewKey, headers(
        ("Idempotency-Replayed" = Option<String>, description = "`true` if an earlier request with \
            this key made it."),
    ))),
)]
pub(crate) async fn create_key(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let actor = caller::with_scope(&app, &parts, Scope::Admin, app.deadline()).await?;
    let bytes = body_of(&app, &parts, body).await?;
    let wanted = key_request(&bytes)?;
    app.auth.check(&wanted)?;
    match answer::idempotency_key(&parts.headers, &actor)? {
        None => {
            let secret = app.auth.fresh_secret()?;
            let key = app.auth.create_key(wanted, &secret, app.deadline()).await?;
            Ok(new_key(&key, Some(&secret)).into_response(false))
        }
        Some(key) => {
            let once = answer::once(&actor, key, &parts, &bytes);
            create_key_once(&app, wanted, &once).await
        }
    }
}

/// The key row holds the hash of the secret, which says whether the key was made; the secret is
/// lost with the first answer, so a repetition says null in its place.
async fn create_key_once(app: &App, wanted: KeyRequest, once: &Once) -> Result<Response, Problem> {
    let idempotency = app.links.idempotency();
    let deadline = app.deadline();
    for _ in 0..TRIES {
        let secret = app.auth.fresh_secret()?;
        let choice = hex(&secret.hash());
        match idempotency.begin(once, choice, deadline).await? {
            Begun::Done(stored) => return answer::replay(&stored),
            Begun::Go { resumed: false, .. } => {
                let made = app.auth.create_key(wanted, &secret, deadline).await;
                return match made {
                    Ok(key) => {
                        let stored = new_key(&key, None).to_stored();
                        idempotency.complete(once, &stored, deadline).await;
                        Ok(new_key(&key, Some(&secret)).into_response(false))
                    }
                    Err(AuthError::Unknown(cause)) => Err(AuthError::Unknown(cause).into()),
                    Err(error) => {
                        idempotency.abandon(once, deadline).await;
                        Err(error.into())
                    }
                };
            }
            Begun::Go { choice, .. } => {
                let keys = app.auth.keys(deadline).await?;
                if let Some(key) = keys.iter().find(|key| hex(&key.hash) == choice) {
                    let answer = new_key(key, None);
                    idempotency.complete(once, &answer.to_stored(), deadline).await;
                    return Ok(answer.into_response(true));
                }
                // It was not made, and nobody knows its secret: begin anew.
                if !idempotency.abandon(once, deadline).await {
                    break;
                }
            }
        }
    }
    Err(LinkError::StillRunning.into())
}

fn new_key(key: &ApiKey, secret: Option<&Secret>) -> Rendered {
    let secret = secret.map(|secret| secret.reveal().to_owned());
    Rendered::json(StatusCode::CREATED, &NewKey { key: KeyView::of(key), secret })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key_request(bytes: &[u8]) -> Result<KeyRequest, FieldError> {
    let mut fields = Fields::parse(bytes)?;
    let name = fields.required_text("name")?;
    let names = fields.plain_texts("scopes")?.ok_or_else(|| {
        FieldError::new("scopes", "missing-field", "the field scopes is required")
    })?;
    if names.len() > Scope::ALL.len() {
        let detail = "name each scope once: read, create, admin";
        return Err(FieldError::new("scopes", "bad-scope", detail));
    }
    let mut scopes = Scopes::default();
    for (at, name) in names.iter().enumerate() {
        let scope = Scope::from_name(name).ok_or_else(|| {
            let detail = "a scope is read, create or admin";
            FieldError::new(format!("scopes[{at}]"), "bad-scope", detail)
        })?;
        scopes = scopes.with(scope);
    }
    let owner = fields.integer("owner")?.flatten();
    let expires_at: Option<Timestamp> = fields.instant("expires_at")?.flatten();
    fields.finish()?;
    Ok(KeyRequest { name, scopes, owner: owner.map(OwnerId), expires_at })
}

/// Revokes an API key, at once on this node and within seconds on every other.
#[utoipa::path(
    delete,
    path = "/api/v1/keys/{id}",
    tag = "keys",
    operation_id = "revokeKey",
    params(
        ("id" = u64, Path, description = "The key's number."),
        ("Idempotency-Key" = Option<String>, Header, description = "See `createLink`.",
            min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    responses((status = 204, description = "Revoked.", headers(
        ("Idempotency-Replayed" = Option<String>, description = "`true` if an earlier request with \
            this key revoked it."),
    ))),
)]
pub(crate) async fn revoke_key(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let deadline = app.deadline();
    let actor = caller::with_scope(&app, &parts, Scope::Admin, deadline).await?;
    body::none(&parts.headers)?;
    Params::parse(&parts.uri, &[])?;
    let no_key = || {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "there is no such key, or it is revoked")
    };
    let Ok(Path(text)) = Path::<String>::from_request_parts(&mut parts, &()).await else {
        return Err(no_key());
    };
    let id = text.parse().ok().filter(|id: &u64| *id <= MAX_CLICKS).map(ApiKeyId);
    let id = id.ok_or_else(no_key)?;
    let gone = Rendered::empty(StatusCode::NO_CONTENT);
    let Some(key) = answer::idempotency_key(&parts.headers, &actor)? else {
        return match app.auth.revoke(id, deadline).await? {
            true => Ok(gone.into_response(false)),
            false => Err(no_key()),
        };
    };
    let once = answer::once(&actor, key, &parts, &[]);
    let attempt = |attempt: Attempt| {
        let app = &app;
        async move {
            if app.auth.revoke(id, deadline).await? {
                return Ok(());
            }
            // Revoked by an attempt before this one, if it was not revoked earlier still.
            let keys = app.auth.keys(deadline).await?;
            let revoked = keys.iter().find(|key| key.id == id).and_then(|key| key.revoked_at);
            let ours = attempt.resumed && revoked.is_some_and(|at| at >= attempt.began_at);
            if ours { Ok(()) } else { Err(no_key()) }
        }
    };
    let stored = |(): &()| gone.to_stored();
    let idempotency = app.links.idempotency();
    match idempotency.run(&once, String::new(), stored, attempt, deadline).await? {
        Answer::Now(()) => Ok(gone.into_response(false)),
        Answer::Replayed(stored) => answer::replay(&stored),
    }
}

/// Lists the registered short-link domains.
#[utoipa::path(
    get,
    path = "/api/v1/domains",
    tag = "domains",
    operation_id = "listDomains",
    responses((status = 200, description = "All domains but the default one.", body = DomainList)),
)]
pub(crate) async fn list_domains(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let deadline = app.deadline();
    caller::with_scope(&app, &parts, Scope::Admin, deadline).await?;
    body::none(&parts.headers)?;
    Params::parse(&parts.uri, &[])?;
    app.links.load_domains(deadline).await?;
    let domains = app.links.domains().registered();
    let domains = domains.into_iter().map(|(id, host)| DomainView { id: id.0, host }).collect();
    Ok(Rendered::json(StatusCode::OK, &DomainList { domains }).into_response(false))
}

/// Registers a short-link domain; one that is registered already is answered as it is.
#[utoipa::path(
    post,
    path = "/api/v1/domains",
    tag = "domains",
    operation_id = "createDomain",
    params(("Idempotency-Key" = Option<String>, Header, description = "See `createLink`.",
        min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = DomainBody, content_type = "application/json"),
    responses((status = 201, description = "Registered.", body = DomainView, headers(
        ("Location" = String, description = "The domain's front page."),
        ("Idempotency-Replayed" = Option<String>, description = "`true` if an earlier request with \
            this key registered it."),
    ))),
)]
pub(crate) async fn create_domain(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let actor = caller::with_scope(&app, &parts, Scope::Admin, app.deadline()).await?;
    let bytes = body_of(&app, &parts, body).await?;
    let mut fields = Fields::parse(&bytes)?;
    let host = fields.required_text("host")?;
    fields.finish()?;
    let deadline = app.deadline();
    let register = || async {
        let registered = app.links.ensure_domain(&host, deadline).await;
        let (id, host) = registered.map_err(|error| match error {
            LinkError::Invalid(error) => Problem::from(error).on("host"),
            error => error.into(),
        })?;
        let front = format!("https://{host}/");
        let view = DomainView { id: id.0, host };
        let rendered = Rendered::json(StatusCode::CREATED, &view).with(LOCATION, &front);
        Ok::<_, Problem>(rendered)
    };
    let Some(key) = answer::idempotency_key(&parts.headers, &actor)? else {
        return Ok(register().await?.into_response(false));
    };
    let once = answer::once(&actor, key, &parts, &bytes);
    let idempotency = app.links.idempotency();
    // Registering twice is registering once: an attempt needs no memory.
    let attempt = |_| register();
    match idempotency.run(&once, String::new(), Rendered::to_stored, attempt, deadline).await? {
        Answer::Now(rendered) => Ok(rendered.into_response(false)),
        Answer::Replayed(stored) => answer::replay(&stored),
    }
}
