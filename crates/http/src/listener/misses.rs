//! Look-ups of links that do not exist: counted per address, because guessing codes is nothing but
//! many of them.
//!
//! A look-up that finds a link costs nothing. Whoever has used the allowance up gets 429 for
//! everything that is not cached, existing or not: an answer that still told the two apart would
//! limit nothing. Look-ups that were under way meanwhile are counted afterwards and paid back, so
//! asking for many at once gains nothing.

use std::net::IpAddr;

use axum::response::Response;
use http::StatusCode;
use shunt_domain::limit::{LimitKind, LimitSubject};
use shunt_engine::limits::Quota;

use super::facts::Facts;
use crate::app::App;
use crate::limited;
use crate::web::errors::{Wants, error_page};

/// Who looks something up.
#[derive(Clone, Copy, Debug)]
pub struct Visitor {
    /// The connection's other end.
    pub peer: IpAddr,
    /// The visitor behind it.
    pub address: IpAddr,
}

impl Visitor {
    /// Whose allowance the look-up uses; `None` for those who are not limited.
    pub(super) fn limited(self, app: &App, facts: &Facts<'_>) -> Option<LimitSubject> {
        app.limits.rates().misses?;
        let host = std::str::from_utf8(facts.host).unwrap_or_default();
        limited::visitor(app, self.peer, self.address, facts.forwarded, host)
    }
}

/// The allowance, if it is used up.
pub(super) fn spent(app: &App, subject: LimitSubject) -> Option<Quota> {
    app.limits.spent(LimitKind::RedirectMiss, subject)
}

/// Counts one look-up that found nothing.
pub(super) async fn count(app: &App, subject: LimitSubject) -> Option<Quota> {
    app.limits.tell(LimitKind::RedirectMiss, subject, 1).await
}

/// The answer to one that was counted.
pub(super) fn page(quota: &Quota, wants: Wants) -> Response {
    if !quota.answer.allowed {
        return limited::page(quota, wants);
    }
    let mut response = error_page(StatusCode::NOT_FOUND, wants);
    limited::put(response.headers_mut(), quota);
    response
}
