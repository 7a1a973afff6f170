//! `/{code}+`: where a link leads, shown before anybody goes there; and the same page as a warning
//! in front of links whose host may pass for another one.
//!
//! Never the target of a link that is limited, disabled or not in force. The host stands in the
//! ASCII form that was judged (punycode), which is also what blocklists and statistics see.

use askama::Template;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use shunt_domain::target::Target;
use shunt_domain::{Link, LinkKey, Stored, Timestamp};
use shunt_engine::l1::{Kind, judge};

use super::errors::{Wants, error_page};
use super::headers::{PAGE_CSP, page};
use super::{Page, render, time, without_scheme};
use crate::app::{AppState, Settings};

/// A target taken apart so that its host can be set off.
pub(crate) struct Address<'a> {
    before: &'a str,
    host: &'a str,
    after: &'a str,
}

impl<'a> Address<'a> {
    /// Splits the location of `target` around its host. Without a host all of it is `before`.
    pub(crate) fn new(target: &'a Target) -> Self {
        let (location, host) = (target.as_str(), target.host());
        // A target has no credentials, so behind the slashes comes the host, in IPv6 a bracket
        // first. The scheme is left out of the search: it may hold the same letters.
        let start = location.find("://").map_or(location.len(), |at| at + 3);
        let found = location.get(start..).and_then(|rest| rest.find(host)).map(|at| at + start);
        match found
            .filter(|_| !host.is_empty())
            .and_then(|at| Some((location.get(..at)?, location.get(at + host.len()..)?)))
        {
            Some((before, after)) => Self { before, host, after },
            None => Self { before: location, host: "", after: "" },
        }
    }
}

#[derive(Template)]
#[template(path = "preview.html")]
struct PreviewTemplate<'a> {
    page: Page<'a>,
    /// The short URL as people say it, without its scheme.
    shown: &'a str,
    /// Where it leads; `None` when that is not to be told.
    target: Option<Address<'a>>,
    /// Whether the host may be taken for another one.
    warned: bool,
    title: Option<&'a str>,
    created: Option<String>,
    created_at: String,
    go: &'a str,
}

/// `GET /{code}+`: 200 with the target, or without it for a link with a click limit; 404, 410 and
/// 503 as the link itself answers. Reads the store, past the caches; nothing is counted.
pub async fn preview(state: &AppState, key: &LinkKey, headers: &HeaderMap) -> Response {
    let wants = Wants::from_headers(headers);
    let link = match visible(state, key).await {
        Ok(link) => link,
        Err(status) => return error_page(status, wants),
    };
    let short_url = state.links.short_url(key);
    let limited = link.data.max_clicks.is_some();
    let target = &link.data.target;
    let template = PreviewTemplate {
        page: Page::new(&state.settings),
        shown: without_scheme(&short_url),
        target: (!limited).then(|| Address::new(target)),
        warned: !limited && target.mixed_script(),
        title: link.data.title.as_deref().filter(|_| !limited),
        created: Some(time::date(link.data.created_at)),
        created_at: time::rfc3339(link.data.created_at),
        // What was read is where the reader goes, even if the link is edited meanwhile. A limited
        // link is opened by the service, which counts.
        go: if limited { &short_url } else { target.as_str() },
    };
    page(StatusCode::OK, PAGE_CSP, render(&template))
}

/// The page that stands in front of a link whose host mixes scripts: 200, never kept. `location`
/// is the target as the link would have sent it. The short URL is `short_url`.
pub fn warning(settings: &Settings, short_url: &str, location: &str) -> Response {
    let Some(target) = Target::from_stored(location, true) else {
        // Only a target that some parser accepted gets here.
        return error_page(StatusCode::INTERNAL_SERVER_ERROR, Wants::Html);
    };
    let template = PreviewTemplate {
        page: Page::new(settings),
        shown: without_scheme(short_url),
        target: Some(Address::new(&target)),
        warned: true,
        title: None,
        created: None,
        created_at: String::new(),
        go: target.as_str(),
    };
    page(StatusCode::OK, PAGE_CSP, render(&template))
}

/// The link behind `key` if it is in force and has clicks left, else the status that it answers
/// with.
pub(crate) async fn visible(state: &AppState, key: &LinkKey) -> Result<Link, StatusCode> {
    match state.resolver.read(key).await {
        Ok(Some(Stored::Link(link))) => in_force(&link, state.clock.now()).map(|()| *link),
        Ok(Some(Stored::Tombstone(_))) => Err(StatusCode::GONE),
        Ok(None) => Err(StatusCode::NOT_FOUND),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// Whether a link answers with a redirect at `now`; else the status that it answers with.
fn in_force(link: &Link, now: Timestamp) -> Result<(), StatusCode> {
    match judge(link, now).0 {
        Kind::Gone => Err(StatusCode::GONE),
        Kind::NotYet | Kind::Absent => Err(StatusCode::NOT_FOUND),
        Kind::Central if link.data.max_clicks.is_some_and(|max| link.used >= max.get()) => {
            Err(StatusCode::GONE)
        }
        Kind::Central | Kind::Redirect(_) | Kind::Warn(_) => Ok(()),
    }
}
