//! The front page: the form, the link it made, and the links this browser made before.
//!
//! `POST /shorten` with the form field `long_url` is a contract that other clients know: it answers
//! an HTML page with the short link.

use askama::Template;
use axum::Extension;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use http::header::{AUTHORIZATION, CACHE_CONTROL, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use shunt_domain::{Code, DomainId, Link, LinkKey, Scope, StoreError};
use shunt_engine::auth::{Actor, AuthError};
use shunt_engine::idempotency::{Answer, MIN_ANONYMOUS_KEY_LEN, Once, StoredAnswer};
use shunt_engine::limits::Quota;
use shunt_engine::links::{Draft, LinkError};

use super::errors::{Wants, error_page};
use super::headers::{NO_STORE, PAGE_CSP, page};
use super::origin::{is_cross_site, may_be_anonymous};
use super::preview::visible;
use super::{Page, form_status, recent, render, time, without_scheme};
use crate::app::AppState;
use crate::client::{Client, Transport};
use crate::limited;

/// Forms name the target so.
const LONG_URL: &str = "long_url";

/// What the form sends. No field is required here, so that each fault gets its own words.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct ShortenForm {
    long_url: String,
    code: String,
    key: String,
    /// A random word made with the page: a form that is sent twice makes one link.
    once: String,
}

/// Something wrong with a field; an empty name means the form as a whole.
struct Wrong {
    status: StatusCode,
    field: &'static str,
    message: String,
    /// The allowance that is used up.
    quota: Option<Quota>,
}

impl Wrong {
    fn new(status: StatusCode, field: &'static str, message: impl Into<String>) -> Self {
        Self { status, field, message: message.into(), quota: None }
    }

    fn limited(field: &'static str, quota: Quota) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let message = "That was too often in a short time. Wait a moment, then try again.";
        Self { quota: Some(quota), ..Self::new(status, field, message) }
    }
}

/// A link as the page shows it.
struct Shown {
    short_url: String,
    /// The short URL without its scheme.
    shown: String,
    /// The path of the link on this host, which QR code and preview are behind.
    path: String,
    code: String,
    target: String,
    age: String,
    created_at: String,
}

impl Shown {
    fn new(state: &AppState, link: &Link) -> Self {
        let short_url = state.links.short_url(link.key());
        let created = link.data.created_at;
        Self {
            shown: without_scheme(&short_url).to_owned(),
            path: format!("{}/{}", state.settings.base_path(), link.code()),
            code: link.code().to_string(),
            target: link.data.target.as_str().to_owned(),
            age: time::age(created, state.clock.now()),
            created_at: time::rfc3339(created),
            short_url,
        }
    }
}

#[derive(Template)]
#[template(path = "home.html")]
struct HomeTemplate<'a> {
    page: Page<'a>,
    long_url: &'a str,
    code: &'a str,
    once: &'a str,
    key_needed: bool,
    error: Option<&'a Wrong>,
    result: Option<&'a Shown>,
    recent: &'a [Shown],
}

impl HomeTemplate<'_> {
    /// Whether `field` is the one at fault.
    fn wrong(&self, field: &str) -> bool {
        self.error.is_some_and(|error| error.field == field)
    }
}

/// `GET /`.
pub(crate) async fn home(
    State(state): State<AppState>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
) -> Response {
    let recent = recent_links(&state, &recent::read(&headers)).await;
    let template = HomeTemplate {
        page: Page::new(&state.settings),
        long_url: "",
        code: "",
        once: &nonce(),
        key_needed: key_needed(&state, client.as_deref(), &headers),
        error: None,
        result: None,
        recent: &recent,
    };
    page(StatusCode::OK, PAGE_CSP, render(&template))
}

/// `GET /shorten`: somebody reloads the address of an answer.
pub(crate) async fn to_home(State(state): State<AppState>) -> Response {
    let mut response = Redirect::to(&format!("{}/", state.settings.base_path())).into_response();
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

/// `POST /shorten/forget`: empties this browser's list.
pub(crate) async fn forget(State(state): State<AppState>, headers: HeaderMap) -> Response {
    if is_cross_site(&headers, &state.settings) {
        return error_page(StatusCode::FORBIDDEN, Wants::from_headers(&headers));
    }
    let mut response = to_home(State(state.clone())).await;
    if let Some(cookie) = recent::write(&[], &state.settings) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// `POST /shorten`.
pub(crate) async fn shorten(
    State(state): State<AppState>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
    form: Result<Form<ShortenForm>, FormRejection>,
) -> Response {
    let client = client.as_deref();
    if is_cross_site(&headers, &state.settings) {
        return error_page(StatusCode::FORBIDDEN, Wants::from_headers(&headers));
    }
    let form = match form {
        Ok(Form(form)) => form,
        Err(rejection) => {
            return error_page(form_status(&rejection), Wants::from_headers(&headers));
        }
    };
    let (made, quota) = match make(&state, client, &headers, &form).await {
        Ok((link, quota)) => (Ok(link), quota),
        Err(wrong) => {
            let quota = wrong.quota;
            (Err(wrong), quota)
        }
    };
    let remembered = recent::read(&headers);
    let key_needed = key_needed(&state, client, &headers);
    let (status, once, codes) = match &made {
        Ok(link) => (StatusCode::OK, nonce(), recent::with(remembered, link.code())),
        // The same word again: if the link was made after all, the next try answers it.
        Err(wrong) => (wrong.status, form.once.clone(), remembered),
    };
    let result = made.as_ref().ok().map(|link| Shown::new(&state, link));
    let before = recent_links(&state, &codes).await;
    let template = HomeTemplate {
        page: Page::new(&state.settings),
        long_url: if result.is_some() { "" } else { &form.long_url },
        code: if result.is_some() { "" } else { &form.code },
        once: &once,
        key_needed,
        error: made.as_ref().err(),
        result: result.as_ref(),
        recent: &before,
    };
    let mut response = page(status, PAGE_CSP, render(&template));
    let answer = response.headers_mut();
    if made.is_ok()
        && let Some(cookie) = recent::write(&codes, &state.settings)
    {
        answer.append(SET_COOKIE, cookie);
    }
    match status {
        StatusCode::UNAUTHORIZED => {
            answer.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            answer.insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        _ => {}
    }
    if let Some(quota) = quota {
        limited::put(answer, &quota);
    }
    response
}

/// Makes the link that the form asks for.
async fn make(
    state: &AppState,
    client: Option<&Client>,
    headers: &HeaderMap,
    form: &ShortenForm,
) -> Result<(Link, Option<Quota>), Wrong> {
    let actor = actor(state, client, headers, form).await?;
    let quota = limited::create(state, client, headers, &actor)
        .await
        .map_err(|quota| Wrong::limited("", quota))?;
    Ok((make_as(state, &actor, form).await?, quota))
}

async fn make_as(state: &AppState, actor: &Actor, form: &ShortenForm) -> Result<Link, Wrong> {
    let mut draft = Draft::new(form.long_url.as_str());
    draft.code = Some(form.code.clone()).filter(|code| !code.is_empty());
    if form.once.len() < MIN_ANONYMOUS_KEY_LEN || form.once.len() > 64 {
        return create(state, actor, &draft).await;
    }
    let once = Once::new(
        actor,
        &form.once,
        &[b"POST", b"/shorten", form.long_url.as_bytes(), form.code.as_bytes()],
    );
    let render = |link: &Link| StoredAnswer {
        status: StatusCode::OK.as_u16(),
        response: link.code().as_str().as_bytes().to_vec(),
    };
    match state.links.create_once(actor, &draft, &once, render, state.deadline()).await {
        Ok(Answer::Now(link)) => Ok(link),
        Ok(Answer::Replayed(answer)) => {
            let code = std::str::from_utf8(&answer.response).ok().and_then(|c| Code::parse(c).ok());
            let key = LinkKey::new(
                DomainId::DEFAULT,
                code.ok_or_else(|| wrong_of(&LinkError::NotFound))?,
            );
            state.links.get(actor, &key, state.deadline()).await.map_err(|error| wrong_of(&error))
        }
        // The word is from a page that was gone back to, and the form was filled in anew.
        Err(LinkError::KeyReused) => create(state, actor, &draft).await,
        Err(error) => Err(wrong_of(&error)),
    }
}

async fn create(state: &AppState, actor: &Actor, draft: &Draft) -> Result<Link, Wrong> {
    state.links.create(actor, draft, state.deadline()).await.map_err(|error| wrong_of(&error))
}

/// Who sends the form: the bearer of the key in it (or in `Authorization`), or somebody on this
/// machine.
async fn actor(
    state: &AppState,
    client: Option<&Client>,
    headers: &HeaderMap,
    form: &ShortenForm,
) -> Result<Actor, Wrong> {
    if client.is_some_and(|client| client.transport == Transport::Local) {
        return Ok(Actor::Local);
    }
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let key = Some(form.key.trim()).filter(|key| !key.is_empty()).or(bearer);
    let Some(key) = key else {
        return if may_be_anonymous(client, headers, &state.settings) {
            Ok(Actor::Anonymous)
        } else {
            Err(Wrong::new(StatusCode::UNAUTHORIZED, "key", "Type in your API key."))
        };
    };
    match state.auth.authenticate(key, state.deadline()).await {
        Ok(actor) if actor.may(Scope::Create) => Ok(actor),
        Ok(_) => Err(Wrong::new(
            StatusCode::FORBIDDEN,
            "key",
            "This key may only read. Use one that may create links.",
        )),
        Err(AuthError::BadKey) => match limited::bad_login(state, client, headers).await {
            Ok(()) => Err(Wrong::new(
                StatusCode::UNAUTHORIZED,
                "key",
                "This key isn't known here, or it has ended. Check that all of it was copied.",
            )),
            Err(quota) => Err(Wrong::limited("key", quota)),
        },
        Err(_) => Err(unavailable()),
    }
}

fn key_needed(state: &AppState, client: Option<&Client>, headers: &HeaderMap) -> bool {
    !client.is_some_and(|client| client.transport == Transport::Local)
        && !may_be_anonymous(client, headers, &state.settings)
}

fn unavailable() -> Wrong {
    Wrong::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "",
        "Links can't be stored right now. Nothing is lost: try again in a moment.",
    )
}

/// An error of the engine in the words and at the place of the form. Nothing of what a store says
/// about itself gets through.
fn wrong_of(error: &LinkError) -> Wrong {
    match error {
        LinkError::Invalid(fault) => {
            let field = match fault.field.as_str() {
                "target" => LONG_URL,
                "code" => "code",
                _ => "",
            };
            Wrong::new(StatusCode::BAD_REQUEST, field, sentence(&fault.detail))
        }
        LinkError::Taken => Wrong::new(
            StatusCode::CONFLICT,
            "code",
            "Somebody has this ending already. Choose another one.",
        ),
        LinkError::Retired => Wrong::new(
            StatusCode::CONFLICT,
            "code",
            "This ending belonged to a link that was deleted, and is never given out again.",
        ),
        LinkError::CodesExhausted | LinkError::Store(StoreError::DiskFull) => Wrong::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "",
            "There is no room for more links. Tell whoever runs this service.",
        ),
        LinkError::StillRunning => Wrong::new(
            StatusCode::CONFLICT,
            "",
            "This link is being made right now. Try again in a moment.",
        ),
        LinkError::Unknown(_) => Wrong::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "",
            "No answer came in time, so the link may exist or not. Press the button again: it is \
             made once only.",
        ),
        _ => unavailable(),
    }
}

/// A detail as a sentence: a capital in front, a full stop behind.
fn sentence(detail: &str) -> String {
    let mut chars = detail.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).chain(['.']).collect()
}

/// The links behind `codes` that any visitor could see: in force and not limited. What can't be
/// looked up right now is left out; the front page is there all the same.
async fn recent_links(state: &AppState, codes: &[Code]) -> Vec<Shown> {
    let keys: Vec<LinkKey> =
        codes.iter().map(|code| LinkKey::new(DomainId::DEFAULT, code.clone())).collect();
    let links = join_all(keys.iter().map(|key| visible(state, key))).await;
    links
        .into_iter()
        .filter_map(Result::ok)
        .filter(|link| link.data.max_clicks.is_none())
        .map(|link| Shown::new(state, &link))
        .collect()
}

/// A random word of 22 characters (128 bits); empty, and so unused, if there is no randomness.
fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => URL_SAFE_NO_PAD.encode(bytes),
        Err(_) => String::new(),
    }
}
