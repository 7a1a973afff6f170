//! `GET /api/v1/links/{code}/stats`: totals and hours.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use shunt_domain::{Scope, Timestamp};

use super::answer::Rendered;
use super::dto::{HourCounts, LinkStats};
use super::links::key_of;
use super::query::Params;
use super::time::Instant;
use super::{body, caller};
use crate::app::AppState;
use crate::problem::Problem;

const HOUR_MILLIS: i64 = 3_600_000;
/// The longest series, in hours: hours are kept for 90 days.
const MAX_HOURS: i64 = 90 * 24;
const DEFAULT_SPAN: Duration = Duration::from_secs(24 * 3600);

/// Clicks of a link: over all time, and hour by hour.
#[utoipa::path(
    get,
    path = "/api/v1/links/{code}/stats",
    tag = "stats",
    operation_id = "linkStats",
    params(
        ("code" = String, Path, description = "The code.", pattern = "^[0-9A-Za-z_-]{1,128}$"),
        ("domain" = Option<String>, Query, description = "The host name it lives on."),
        ("from" = Option<String>, Query, description = "Where the series begins, rounded down to \
            the hour; left out, 24 hours before `to`.", format = DateTime),
        ("to" = Option<String>, Query, description = "Where it ends, rounded up to the hour; left \
            out, now. At most 90 days after `from`.", format = DateTime),
        ("unit" = Option<String>, Query, description = "The length of a period: `hour`.",
            pattern = "^hour$"),
    ),
    responses((status = 200, description = "The figures.", body = LinkStats)),
)]
pub(crate) async fn link_stats(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let deadline = app.deadline();
    let actor = caller::with_scope(&app, &parts, Scope::Read, deadline).await?;
    body::none(&parts.headers)?;
    let mut params = Params::parse(&parts.uri, &["domain", "from", "to", "unit"])?;
    if params.text("unit").is_some_and(|unit| unit != "hour") {
        return Err(Problem::bad_field("unit", "bad-unit", "the unit is hour"));
    }
    let to = params.instant("to")?.unwrap_or_else(|| app.clock.now());
    let from = params.instant("from")?.unwrap_or_else(|| to.minus(DEFAULT_SPAN));
    let first = from.hour();
    // Up to and including the hour that `to` cuts.
    let end = Timestamp::from_millis(to.as_millis().saturating_sub(1)).hour().saturating_add(1);
    if first >= end {
        return Err(Problem::bad_field("to", "empty-window", "to must be later than from"));
    }
    if end - first > MAX_HOURS + 1 {
        let detail = "from and to are at most 90 days apart";
        return Err(Problem::bad_field("from", "window-too-long", detail));
    }
    let key = key_of(&app, &mut parts, &mut params).await?;
    let link = app.links.get(&actor, &key, deadline).await?;
    let totals = app.rollups.totals(&key, deadline).await?;
    let hours = app.rollups.hours(&key, first, end, deadline).await?;
    let at = |hour: i64| Instant(Timestamp::from_millis(hour.saturating_mul(HOUR_MILLIS)));
    let max_clicks = link.data.max_clicks.map(Into::into);
    let stats = LinkStats {
        code: key.code.to_string(),
        domain: app.links.domains().host(key.domain).map(ToOwned::to_owned),
        totals: totals.into(),
        max_clicks,
        used: max_clicks.map(|_: u64| link.used),
        unit: "hour",
        from: at(first),
        to: at(end),
        series: hours
            .iter()
            .map(|row| HourCounts {
                at: at(row.hour),
                clicks: row.clicks,
                humans: row.humans,
                heads: row.heads,
            })
            .collect(),
    };
    Ok(Rendered::json(StatusCode::OK, &stats).into_response(false))
}
