//! `/api/v1/links` and `/api/v1/links/{code}`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::Response;
use http::header::{ETAG, LOCATION};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use shunt_domain::ports::{ListQuery, Sort};
use shunt_domain::{Deadline, Link, LinkKey, Scope, Tag, Version};
use shunt_engine::auth::Actor;
use shunt_engine::idempotency::Answer;
use shunt_engine::links::{Draft, FieldError, LinkError, MAX_SEARCH_CHARS};

use super::answer::{self, Rendered};
use super::body::{self, JSON, MERGE_PATCH};
use super::caller;
use super::conditional;
use super::dto::{self, CreateBody, LinkPage, LinkView, PatchBody};
use super::query::Params;
use crate::app::{App, AppState};
use crate::client::Client;
use crate::limited;
use crate::problem::Problem;

/// The most links of one page. 200 targets of 8 KiB are 1.6 MB.
pub(crate) const MAX_PAGE: u32 = 200;
const DEFAULT_PAGE: u32 = 50;

/// Creates a link.
#[utoipa::path(
    post,
    path = "/api/v1/links",
    tag = "links",
    operation_id = "createLink",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeating a request with \
        the same key and body gives the same answer for 24 hours. At least 22 characters without \
        an API key.", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = CreateBody, content_type = "application/json"),
    responses((status = 201, description = "Created, durably.", body = LinkView, headers(
        ("Location" = String, description = "The short URL."),
        ("ETag" = String, description = "The link's version."),
        ("Idempotency-Replayed" = Option<String>, description = "`true` if an earlier request with \
            this key made the link."),
    ))),
)]
pub(crate) async fn create(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    make(&app, request, dto::draft, Problem::from, created).await
}

/// Makes a link of a JSON body, whatever words the body has for it and the answer: `read`
/// understands the body, `refuse` puts the engine's refusal into the dialect's words, `render`
/// makes the answer.
pub(super) async fn make(
    app: &AppState,
    request: Request,
    read: impl FnOnce(&[u8]) -> Result<Draft, FieldError> + Send,
    refuse: impl FnOnce(LinkError) -> Problem + Send,
    render: impl Fn(&App, &Link) -> Rendered + Copy + Send + Sync + 'static,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let actor = caller::creator(app, &parts, app.deadline()).await?;
    let client = parts.extensions.get::<Client>();
    let quota = limited::create(app, client, &parts.headers, &actor).await?;
    let mut response = make_as(app, parts, body, &actor, read, refuse, render).await?;
    if let Some(quota) = quota {
        limited::put(response.headers_mut(), &quota);
    }
    Ok(response)
}

async fn make_as(
    app: &AppState,
    parts: Parts,
    body: Body,
    actor: &Actor,
    read: impl FnOnce(&[u8]) -> Result<Draft, FieldError> + Send,
    refuse: impl FnOnce(LinkError) -> Problem + Send,
    render: impl Fn(&App, &Link) -> Rendered + Copy + Send + Sync + 'static,
) -> Result<Response, Problem> {
    Params::parse(&parts.uri, &[])?;
    body::media_type(&parts.headers, &[JSON])?;
    let key = answer::idempotency_key(&parts.headers, actor)?;
    let settings = &app.settings;
    let bytes =
        body::read(&parts.headers, body, settings.max_body, settings.request_timeout).await?;
    let draft = read(&bytes)?;
    // The body may have taken its time: the work gets its own.
    let deadline = app.deadline();
    let Some(key) = key else {
        let link = app.links.create(actor, &draft, deadline).await.map_err(refuse)?;
        return Ok(render(app, &link).into_response(false));
    };
    let once = answer::once(actor, key, &parts, &bytes);
    let rendering = Arc::clone(app);
    let stored = move |link: &Link| render(&rendering, link).to_stored();
    match app.links.create_once(actor, &draft, &once, stored, deadline).await.map_err(refuse)? {
        Answer::Now(link) => Ok(render(app, &link).into_response(false)),
        Answer::Replayed(stored) => answer::replay(&stored),
    }
}

fn created(app: &App, link: &Link) -> Rendered {
    let view = LinkView::of(&app.links, link);
    Rendered::json(StatusCode::CREATED, &view)
        .with(LOCATION, &app.links.short_url(link.key()))
        .with(ETAG, &format!("\"{}\"", link.version.0))
}

/// Lists the caller's links, an admin's key: all links.
#[utoipa::path(
    get,
    path = "/api/v1/links",
    tag = "links",
    operation_id = "listLinks",
    params(
        ("cursor" = Option<String>, Query, description = "`next` of the page before.", min_length = 1),
        ("limit" = Option<u32>, Query, description = "Links a page; left out, 50.",
            minimum = 1, maximum = 200),
        ("q" = Option<String>, Query, description = "A substring of code, title or target, in any \
            case.", min_length = 3, max_length = 256),
        ("tag" = Option<String>, Query, description = "Only links with this tag.",
            min_length = 1, max_length = 64),
        ("domain" = Option<String>, Query, description = "Only links of this domain; empty: of \
            the default one."),
        ("sort" = Option<String>, Query, description = "`-created` (the default), `created`, \
            `code`, `-code`.", pattern = "^-?(created|code)$"),
    ),
    responses((status = 200, description = "One page.", body = LinkPage)),
)]
pub(crate) async fn list(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let deadline = app.deadline();
    let actor = caller::with_scope(&app, &parts, Scope::Read, deadline).await?;
    body::none(&parts.headers)?;
    let known = ["cursor", "limit", "q", "tag", "domain", "sort"];
    let mut params = Params::parse(&parts.uri, &known)?;
    let tag = params.text("tag").map(|text| {
        Tag::parse(&text).ok_or_else(|| {
            Problem::bad_field("tag", "bad-tag", "a tag has 1 to 64 characters and no commas")
        })
    });
    let sort = match params.text("sort").as_deref() {
        None | Some("-created") => Sort::CreatedDesc,
        Some("created") => Sort::CreatedAsc,
        Some("code") => Sort::CodeAsc,
        Some("-code") => Sort::CodeDesc,
        Some(_) => {
            let detail = "sort is created, -created, code or -code";
            return Err(Problem::bad_field("sort", "bad-sort", detail));
        }
    };
    let text = params.text("q");
    if text.as_ref().is_some_and(|text| text.len() > 4 * MAX_SEARCH_CHARS) {
        return Err(Problem::bad_field("q", "bad-search", "the search text is too long"));
    }
    let domain = match params.text("domain").as_deref() {
        None => None,
        Some("") => Some(shunt_domain::DomainId::DEFAULT),
        // Any code will do: only the domain is looked up.
        Some(host) => match app.links.key("-", Some(host)) {
            Ok(key) => Some(key.domain),
            Err(_) => {
                let detail = "this domain is not registered here";
                return Err(Problem::bad_field("domain", "unknown-domain", detail));
            }
        },
    };
    let query = ListQuery {
        owner: None,
        domain,
        tag: tag.transpose()?,
        text,
        sort,
        cursor: params.text("cursor"),
        limit: params.number("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE),
    };
    let page = app.links.list(&actor, query, deadline).await?;
    let view = LinkPage {
        links: page.links.iter().map(|link| LinkView::of(&app.links, link)).collect(),
        next: page.next,
    };
    Ok(Rendered::json(StatusCode::OK, &view).into_response(false))
}

/// The link that the path and `?domain=` name.
pub(crate) async fn key_of(
    app: &App,
    parts: &mut Parts,
    params: &mut Params,
) -> Result<LinkKey, Problem> {
    let Ok(Path(code)) = Path::<String>::from_request_parts(parts, &()).await else {
        return Err(Problem::not_found());
    };
    let domain = params.text("domain");
    Ok(app.links.key(&code, domain.as_deref())?)
}

fn whole(app: &App, link: &Link) -> Rendered {
    Rendered::json(StatusCode::OK, &LinkView::of(&app.links, link))
        .with(ETAG, &format!("\"{}\"", link.version.0))
}

/// Reads a link.
#[utoipa::path(
    get,
    path = "/api/v1/links/{code}",
    tag = "links",
    operation_id = "getLink",
    params(
        ("code" = String, Path, description = "The code.", pattern = "^[0-9A-Za-z_-]{1,128}$"),
        ("domain" = Option<String>, Query, description = "The host name it lives on; left out, \
            the default domain."),
        ("If-None-Match" = Option<String>, Header, description = "304 if the link still has one \
            of these entity tags.", pattern = r#"^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*")*)$"#),
    ),
    responses(
        (status = 200, description = "The link.", body = LinkView,
            headers(("ETag" = String, description = "The link's version."))),
        (status = 304, description = "It has not changed."),
    ),
)]
pub(crate) async fn get(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let deadline = app.deadline();
    let actor = caller::with_scope(&app, &parts, Scope::Read, deadline).await?;
    body::none(&parts.headers)?;
    let mut params = Params::parse(&parts.uri, &["domain"])?;
    let key = key_of(&app, &mut parts, &mut params).await?;
    let link = app.links.get(&actor, &key, deadline).await?;
    if let Some(response) = conditional::not_modified(&parts.headers, link.version)? {
        return Ok(response);
    }
    Ok(whole(&app, &link).into_response(false))
}

/// Changes a link (JSON merge patch).
#[utoipa::path(
    patch,
    path = "/api/v1/links/{code}",
    tag = "links",
    operation_id = "changeLink",
    params(
        ("code" = String, Path, description = "The code.", pattern = "^[0-9A-Za-z_-]{1,128}$"),
        ("domain" = Option<String>, Query, description = "The host name it lives on."),
        ("If-Match" = Option<String>, Header, description = "Only if the link has one of these \
            entity tags.", pattern = r#"^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*")*)$"#),
        ("Idempotency-Key" = Option<String>, Header, description = "See `createLink`.",
            min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    request_body(
        content(
            (PatchBody = "application/merge-patch+json"),
            (PatchBody = "application/json"),
        ),
    ),
    responses((status = 200, description = "The link as it is now.", body = LinkView, headers(
        ("ETag" = String, description = "The link's version."),
        ("Idempotency-Replayed" = Option<String>, description = "`true` if an earlier request with \
            this key made the change."),
    ))),
)]
pub(crate) async fn patch(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let actor = caller::with_scope(&app, &parts, Scope::Create, app.deadline()).await?;
    let mut params = Params::parse(&parts.uri, &["domain"])?;
    body::media_type(&parts.headers, &[MERGE_PATCH, JSON]).map_err(|problem| {
        let types = HeaderValue::from_static("application/merge-patch+json, application/json");
        problem.with(http::HeaderName::from_static("accept-patch"), types)
    })?;
    let idempotency_key = answer::idempotency_key(&parts.headers, &actor)?.map(ToOwned::to_owned);
    let expected = conditional::if_match(&parts.headers)?;
    let settings = &app.settings;
    let bytes =
        body::read(&parts.headers, body, settings.max_body, settings.request_timeout).await?;
    let draft = dto::patch(&bytes)?;
    let key = key_of(&app, &mut parts, &mut params).await?;
    let deadline: Deadline = app.deadline();
    let expected = expected.as_deref();
    let Some(idempotency_key) = idempotency_key else {
        let link = app.links.patch(&actor, &key, &draft, expected, deadline).await?;
        return Ok(whole(&app, &link).into_response(false));
    };
    let once = answer::once(&actor, &idempotency_key, &parts, &bytes);
    let stored = |link: &Link| whole(&app, link).to_stored();
    let patched =
        app.links.patch_once(&actor, &key, &draft, expected, &once, stored, deadline).await?;
    match patched {
        Answer::Now(link) => Ok(whole(&app, &link).into_response(false)),
        Answer::Replayed(stored) => answer::replay(&stored),
    }
}

/// Deletes a link. Its code is never given out again.
#[utoipa::path(
    delete,
    path = "/api/v1/links/{code}",
    tag = "links",
    operation_id = "deleteLink",
    params(
        ("code" = String, Path, description = "The code.", pattern = "^[0-9A-Za-z_-]{1,128}$"),
        ("domain" = Option<String>, Query, description = "The host name it lives on."),
        ("If-Match" = Option<String>, Header, description = "Only if the link has one of these \
            entity tags.", pattern = r#"^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*")*)$"#),
        ("Idempotency-Key" = Option<String>, Header, description = "See `createLink`.",
            min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    responses((status = 204, description = "Deleted.", headers(
        ("Idempotency-Replayed" = Option<String>, description = "`true` if an earlier request with \
            this key deleted it."),
    ))),
)]
pub(crate) async fn delete(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let deadline = app.deadline();
    let actor = caller::with_scope(&app, &parts, Scope::Create, deadline).await?;
    body::none(&parts.headers)?;
    let mut params = Params::parse(&parts.uri, &["domain"])?;
    let idempotency_key = answer::idempotency_key(&parts.headers, &actor)?.map(ToOwned::to_owned);
    let expected = conditional::if_match(&parts.headers)?;
    let key = key_of(&app, &mut parts, &mut params).await?;
    let expected = expected.as_deref();
    let gone = Rendered::empty(StatusCode::NO_CONTENT);
    let Some(idempotency_key) = idempotency_key else {
        app.links.delete(&actor, &key, expected, deadline).await?;
        return Ok(gone.into_response(false));
    };
    let once = answer::once(&actor, &idempotency_key, &parts, &[]);
    let stored = |_: &Version| gone.to_stored();
    match app.links.delete_once(&actor, &key, expected, &once, stored, deadline).await? {
        Answer::Now(_) => Ok(gone.into_response(false)),
        Answer::Replayed(stored) => answer::replay(&stored),
    }
}
