//! From a resolved entry to an answer: the one place that knows the contract's table of answers,
//! whatever protocol the request came by.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT, CACHE_CONTROL, LOCATION, REFERRER_POLICY};
use http::{HeaderMap, HeaderValue, StatusCode};
use shunt_domain::bots::is_bot;
use shunt_domain::click::ClickFlags;
use shunt_domain::ports::Claim;
use shunt_domain::target::Target;
use shunt_domain::{Link, LinkKey, Outcome, RedirectStatus, StoreError, Stored};
use shunt_engine::l1::{Entry, Head, Kind, judge};
use shunt_engine::limits::Quota;

use super::core::Shared;
use super::facts::Facts;
use super::misses::{self, Visitor};
use crate::metrics::Answer;
use crate::web::errors::{Wants, error_page};

/// `Referrer-Policy` of every redirect.
pub const POLICY: &str = "strict-origin-when-cross-origin";

/// `Cache-Control` of a redirect: an edit must reach browsers, so temporary ones are asked for
/// again at once and permanent ones within a minute.
pub const fn cache_control(status: RedirectStatus) -> &'static str {
    match status {
        RedirectStatus::Found | RedirectStatus::Temporary => "private, max-age=0",
        RedirectStatus::MovedPermanently | RedirectStatus::Permanent => "private, max-age=60",
    }
}

/// How a look-up is answered.
#[derive(Debug)]
pub enum Verdict {
    /// A redirect; this is what *served* means.
    Redirect {
        /// Status code.
        status: RedirectStatus,
        /// `Location`, printable ASCII.
        location: String,
        /// For the counters.
        answer: Answer,
    },
    /// An error page.
    Page(StatusCode, Answer),
    /// The target's host could be mistaken for another: the preview comes first.
    Warn(String),
    /// A limited link, asked for by something that is not a person: no target, nothing used up.
    Withheld,
    /// 404 that was counted, or 429 to whoever got too many of them.
    Counted(Quota),
}

/// The location of a redirect with the visitor's query, if the link wants it.
pub fn location<'a>(head: &Head, target: &'a str, query: Option<&str>) -> Cow<'a, str> {
    match query {
        Some(query) if head.forward_query && !query.is_empty() => with_query(target, query),
        _ => Cow::Borrowed(target),
    }
}

fn with_query<'a>(target: &'a str, query: &str) -> Cow<'a, str> {
    Target::from_stored(target, false)
        .map_or(Cow::Borrowed(target), |parsed| Cow::Owned(parsed.with_query(query).into_owned()))
}

/// Looks a link up for a visitor and decides what that means for this request.
pub async fn look_up(
    shared: &Arc<Shared>,
    key: &LinkKey,
    visitor: Visitor,
    head: bool,
    facts: &Facts<'_>,
    query: Option<&str>,
) -> Verdict {
    let resolver = &shared.app.resolver;
    let cached = resolver.cached(key);
    // What is cached is answered whoever asks, unless the answer is that there is no such link:
    // that is a miss like any other.
    let known = cached.as_ref().is_some_and(|entry| !missing(entry.kind()));
    let limited = if known { None } else { visitor.limited(&shared.app, facts) };
    if let Some(quota) = limited.and_then(|subject| misses::spent(&shared.app, subject)) {
        return Verdict::Counted(quota);
    }
    let entry = match cached {
        Some(entry) => Ok(entry),
        None => resolver.load(key).await,
    };
    let verdict = verdict(shared, key, entry, head, facts, query).await;
    match (&verdict, limited) {
        (Verdict::Page(StatusCode::NOT_FOUND, _), Some(subject)) => {
            misses::count(&shared.app, subject).await.map_or(verdict, Verdict::Counted)
        }
        _ => verdict,
    }
}

/// Whether the answer is 404.
pub const fn missing(kind: Kind) -> bool {
    matches!(kind, Kind::Absent | Kind::NotYet)
}

/// Decides what an entry (or the failure to get one) means for this request.
async fn verdict(
    shared: &Arc<Shared>,
    key: &LinkKey,
    entry: Result<Entry, StoreError>,
    head: bool,
    facts: &Facts<'_>,
    query: Option<&str>,
) -> Verdict {
    let entry = match entry {
        Ok(entry) => entry,
        Err(error) => {
            tracing::debug!(%error, "a link could not be looked up");
            return unavailable();
        }
    };
    let location = || location(entry.head(), entry.target(), query).into_owned();
    match entry.kind() {
        Kind::Redirect(status) => {
            Verdict::Redirect { status, location: location(), answer: Answer::RedirectStore }
        }
        Kind::Warn(_) => Verdict::Warn(location()),
        Kind::Gone => Verdict::Page(StatusCode::GONE, Answer::Gone),
        Kind::NotYet | Kind::Absent => Verdict::Page(StatusCode::NOT_FOUND, Answer::NotFound),
        Kind::Central => {
            // Before the claim, not after it: whoever only looks uses nothing up.
            if head || facts.flags.has(ClickFlags::PREFETCH) || is_bot(facts.agent()) {
                return Verdict::Withheld;
            }
            claim(shared, key, query).await
        }
    }
}

async fn claim(shared: &Arc<Shared>, key: &LinkKey, query: Option<&str>) -> Verdict {
    match shared.app.resolver.claim(key).await {
        Outcome::Done(Claim::Granted(link)) => granted(&link, query),
        Outcome::Done(Claim::Denied(stored)) => denied(&stored, shared),
        Outcome::Done(Claim::Absent) => Verdict::Page(StatusCode::NOT_FOUND, Answer::NotFound),
        Outcome::Refused(error) => {
            tracing::warn!(%error, "a click could not be claimed");
            unavailable()
        }
        Outcome::Unknown(cause) => {
            tracing::warn!(%cause, "a click may or may not have been claimed");
            unavailable()
        }
    }
}

fn granted(link: &Link, query: Option<&str>) -> Verdict {
    let target = &link.data.target;
    let location = match query {
        Some(query) if link.data.forward_query && !query.is_empty() => target.with_query(query),
        _ => Cow::Borrowed(target.as_str()),
    };
    Verdict::Redirect {
        status: link.data.status,
        location: location.into_owned(),
        answer: Answer::RedirectClaimed,
    }
}

fn denied(stored: &Stored, shared: &Arc<Shared>) -> Verdict {
    let not_yet = match stored {
        Stored::Link(link) => judge(link, shared.app.clock.now()).0 == Kind::NotYet,
        Stored::Tombstone(_) => false,
    };
    if not_yet {
        Verdict::Page(StatusCode::NOT_FOUND, Answer::NotFound)
    } else {
        Verdict::Page(StatusCode::GONE, Answer::Gone)
    }
}

const fn unavailable() -> Verdict {
    Verdict::Page(StatusCode::SERVICE_UNAVAILABLE, Answer::Unavailable)
}

impl Verdict {
    /// For the counters.
    pub const fn answer(&self) -> Answer {
        match self {
            Self::Redirect { answer, .. } | Self::Page(_, answer) => *answer,
            Self::Warn(_) => Answer::Warned,
            Self::Withheld => Answer::Withheld,
            Self::Counted(quota) if quota.answer.allowed => Answer::NotFound,
            Self::Counted(_) => Answer::Limited,
        }
    }

    /// The answer as a response.
    pub async fn into_response(
        self,
        shared: &Arc<Shared>,
        key: &LinkKey,
        accept: &[u8],
    ) -> Response {
        match self {
            Self::Redirect { status, location, .. } => redirect(status, &location),
            Self::Page(status, _) => error_page(status, wants(accept)),
            Self::Counted(quota) => misses::page(&quota, wants(accept)),
            Self::Warn(location) => {
                let short_url = shared.app.links.short_url(key);
                crate::web::preview::warning(&shared.app.settings, &short_url, &location)
            }
            // The preview of a limited link shows no target.
            Self::Withheld => {
                crate::web::preview::preview(&shared.app, key, &accepting(accept)).await
            }
        }
    }
}

/// A header map with nothing but this `Accept`.
fn accepting(accept: &[u8]) -> HeaderMap {
    HeaderValue::from_bytes(accept).map(|value| (ACCEPT, value)).into_iter().collect()
}

/// What kind of page an `Accept` header asks for.
pub fn wants(accept: &[u8]) -> Wants {
    Wants::from_headers(&accepting(accept))
}

/// A redirect as a response.
pub fn redirect(status: RedirectStatus, location: &str) -> Response {
    let Ok(value) = HeaderValue::from_str(location) else {
        // Targets are printable ASCII by construction; a row that is not was damaged.
        return error_page(StatusCode::INTERNAL_SERVER_ERROR, Wants::Text);
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status.code()).unwrap_or(StatusCode::FOUND);
    let headers = response.headers_mut();
    headers.insert(LOCATION, value);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control(status)));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static(POLICY));
    response
}
