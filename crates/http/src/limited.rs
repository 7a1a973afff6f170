//! The limits at the edge: who is limited, and how an answer says so.
//!
//! Invariants:
//! - whoever is on this machine itself is not limited unless `limits.loopback` says so: the same
//!   rule by which links are made here without an API key. Bearers of admin keys and the data
//!   directory's socket never are;
//! - a good credential is never refused for the bad ones that came from its address before;
//! - answers to limited requests carry `RateLimit-Policy` and `RateLimit` as in
//!   draft-ietf-httpapi-ratelimit-headers-10, those that say no 429 and `Retry-After` as well.

use std::net::IpAddr;

use axum::response::Response;
use http::header::{HOST, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use shunt_domain::limit::{LimitKind, LimitSubject};
use shunt_engine::auth::Actor;
use shunt_engine::limits::Quota;

use crate::app::App;
use crate::client::{Client, Transport};
use crate::problem::Problem;
use crate::web::errors::{Wants, error_page};
use crate::web::origin::is_this_machine;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whose allowance a request without an API key uses; `None` for those who are not limited.
pub(crate) fn visitor(
    app: &App,
    peer: IpAddr,
    address: IpAddr,
    forwarded: bool,
    host: &str,
) -> Option<LimitSubject> {
    let exempt = !app.settings.limit_loopback && is_this_machine(peer, forwarded, host);
    (!exempt).then(|| app.limits.client(address))
}

/// The same, from what the listener said of the request. Without its word the caller is a
/// stranger, as all strangers together.
fn caller(app: &App, client: Option<&Client>, headers: &HeaderMap) -> Option<LimitSubject> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match client {
        Some(client) if client.transport == Transport::Local => None,
        Some(client) => visitor(app, client.peer, client.address, client.forwarded, host),
        None => Some(app.limits.client(IpAddr::from([0, 0, 0, 0]))),
    }
}

/// Whose allowance of creates a request uses; `None` for those who are not limited.
pub(crate) fn creator(
    app: &App,
    client: Option<&Client>,
    headers: &HeaderMap,
    actor: &Actor,
) -> Option<LimitSubject> {
    match actor {
        Actor::Local => None,
        Actor::Key { .. } if actor.is_admin() => None,
        Actor::Key { id, .. } => Some(LimitSubject::Key(*id)),
        Actor::Anonymous => caller(app, client, headers),
    }
}

/// Asks for one create.
///
/// # Errors
/// The allowance that is used up.
pub(crate) async fn create(
    app: &App,
    client: Option<&Client>,
    headers: &HeaderMap,
    actor: &Actor,
) -> Result<Option<Quota>, Quota> {
    let Some(subject) = creator(app, client, headers, actor) else { return Ok(None) };
    match app.limits.ask(LimitKind::Create, subject, 1).await {
        Some(quota) if !quota.answer.allowed => Err(quota),
        quota => Ok(quota),
    }
}

/// Counts a credential that is not good.
///
/// # Errors
/// The allowance that is used up.
pub(crate) async fn bad_login(
    app: &App,
    client: Option<&Client>,
    headers: &HeaderMap,
) -> Result<(), Quota> {
    let Some(subject) = caller(app, client, headers) else { return Ok(()) };
    // Asked and not told: whoever goes on guessing is refused and makes no debt that would shut
    // others behind the same address out for hours.
    match app.limits.ask(LimitKind::Login, subject, 1).await {
        Some(quota) if !quota.answer.allowed => Err(quota),
        _ => Ok(()),
    }
}

/// Says in an answer how the allowance stands.
pub(crate) fn put(headers: &mut HeaderMap, quota: &Quota) {
    for (name, value) in fields(quota) {
        headers.insert(name, value);
    }
}

/// The page that says no.
pub(crate) fn page(quota: &Quota, wants: Wants) -> Response {
    let mut response = error_page(StatusCode::TOO_MANY_REQUESTS, wants);
    put(response.headers_mut(), quota);
    response
}

fn fields(quota: &Quota) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let (name, rate, answer) = (quota.kind.name(), quota.rate, quota.answer);
    let policy = format!("\"{name}\";q={};w={}", rate.amount(), seconds(rate.window()));
    let left = format!("\"{name}\";r={};t={}", answer.remaining, seconds(answer.reset));
    let retry = (!answer.allowed).then(|| (RETRY_AFTER, retry_after(quota).to_string()));
    [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, left)]
        .into_iter()
        .chain(retry)
        // Letters, digits and signs: always a value.
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?)))
}

/// Whole seconds until something is allowed again, at least one.
fn retry_after(quota: &Quota) -> u64 {
    seconds(quota.answer.retry_after).max(1)
}

/// Whole seconds, rounded up: whoever waits so long has waited long enough.
fn seconds(time: std::time::Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl From<Quota> for Problem {
    fn from(quota: Quota) -> Self {
        let what = match quota.kind {
            LimitKind::Create => "too many links were created from here",
            LimitKind::RedirectMiss => "too many links that do not exist were asked for from here",
            LimitKind::Login => "too many credentials that are not good came from here",
        };
        let detail = format!(
            "{what}: at most {} in {} s; try again in {} s",
            quota.rate.amount(),
            seconds(quota.rate.window()),
            retry_after(&quota),
        );
        fields(&quota).fold(
            Self::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail),
            |problem, (name, value)| problem.with(name, value),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shunt_domain::limit::{LimitAnswer, Rate};

    use super::*;

    fn quota(allowed: bool) -> Quota {
        let answer = LimitAnswer {
            allowed,
            remaining: if allowed { 3 } else { 0 },
            reset: Duration::from_millis(56_001),
            retry_after: if allowed { Duration::ZERO } else { Duration::from_millis(10) },
        };
        let rate = Rate::new(60, Duration::from_secs(60)).unwrap();
        Quota { kind: LimitKind::RedirectMiss, rate, answer }
    }

    #[test]
    fn headers_are_structured_fields_and_round_up() {
        let mut headers = HeaderMap::new();
        put(&mut headers, &quota(true));
        assert_eq!(headers["ratelimit-policy"], "\"redirect-miss\";q=60;w=60");
        assert_eq!(headers["ratelimit"], "\"redirect-miss\";r=3;t=57");
        assert!(!headers.contains_key("retry-after"));
        put(&mut headers, &quota(false));
        assert_eq!(headers["ratelimit"], "\"redirect-miss\";r=0;t=57");
        assert_eq!(headers["retry-after"], "1");
    }

    #[test]
    fn a_page_and_a_problem_say_when() {
        for wants in [Wants::Html, Wants::Problem, Wants::Text] {
            let page = page(&quota(false), wants);
            assert_eq!(page.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(page.headers()["retry-after"], "1");
            assert!(page.headers().contains_key("ratelimit"));
        }
        let problem = Problem::from(quota(false));
        assert_eq!((problem.status().as_u16(), problem.code()), (429, "rate-limited"));
        assert!(problem.detail().ends_with("at most 60 in 60 s; try again in 1 s"));
    }
}
