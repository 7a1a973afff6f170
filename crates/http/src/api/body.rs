//! Reads request bodies: bounded in size and time, of the media type that was asked for.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;

use crate::problem::Problem;

/// Plain JSON.
pub(crate) const JSON: &str = "application/json";
/// RFC 7396.
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
/// One JSON value a line.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// The one of `accepted` that the request says it sends.
///
/// # Errors
/// 415, with what is accepted.
pub(crate) fn media_type(
    headers: &HeaderMap,
    accepted: &[&'static str],
) -> Result<&'static str, Problem> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let value = values.next().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let known = accepted.iter().find(|known| known.eq_ignore_ascii_case(essence));
    match known {
        Some(known) if values.next().is_none() && charset_is_utf8(value) => Ok(known),
        _ => {
            let list = accepted.join(" or ");
            let problem = Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                format!("send Content-Type: {list}, in UTF-8"),
            );
            let problem = problem.on("Content-Type");
            // RFC 9110 section 12.5.1 has `Accept` say in a response what a request may hold.
            let name = HeaderName::from_static("accept");
            Err(match HeaderValue::from_str(&accepted.join(", ")) {
                Ok(list) => problem.with(name, list),
                Err(_) => problem,
            })
        }
    }
}

fn charset_is_utf8(value: &str) -> bool {
    value.split(';').skip(1).all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    })
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-large",
        format!("the body is larger than {limit} bytes; use /api/v1/links:batch for many links"),
    )
    .on("body")
}

/// That the client sends too slowly.
pub(crate) fn too_slow() -> Problem {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "request-timeout",
        "the body did not arrive in time; send it again",
    )
    .on("body")
}

/// That the body broke off.
pub(crate) fn broken() -> Problem {
    Problem::bad_field("body", "body-broken", "the body broke off; send it again")
}

/// The whole body.
///
/// # Errors
/// 413 above `limit` (at once when `Content-Length` says so), 408 after `patience`, 400 when it
/// breaks off.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let announced = announced.and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let collect = async {
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| broken())?.into_data() else { continue };
            if all.len() + data.len() > limit {
                return Err(too_large(limit));
            }
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    };
    tokio::time::timeout(patience, collect).await.unwrap_or_else(|_| Err(too_slow()))
}

/// Refuses a body where none belongs.
pub(crate) fn none(headers: &HeaderMap) -> Result<(), Problem> {
    let announced = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    if announced.is_some_and(|length| length != b"0") {
        let detail = "this request has no body; leave it out";
        return Err(Problem::bad_field("body", "unexpected-body", detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_matched_whole() {
        let pick = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            media_type(&headers, &[JSON, MERGE_PATCH])
        };
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/json;x=y"]
        {
            assert_eq!(pick(good).unwrap(), JSON, "{good}");
        }
        assert_eq!(pick("application/merge-patch+json").unwrap(), MERGE_PATCH);
        for bad in [
            "",
            "text/plain",
            "application/json, text/plain",
            "application/jsonx",
            "application/json; charset=latin1",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ] {
            let problem = pick(bad).unwrap_err();
            assert_eq!(problem.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{bad}");
        }
        assert!(media_type(&HeaderMap::new(), &[JSON]).is_err());
    }

    #[tokio::test]
    async fn bodies_are_bounded_announced_or_not() {
        let minute = Duration::from_secs(60);
        let headers = HeaderMap::new();
        let whole = read(&headers, Body::from("12345"), 5, minute).await.unwrap();
        assert_eq!(&whole[..], b"12345");
        let status = |result: Result<Bytes, Problem>| result.unwrap_err().status();
        let body = Body::from("123456");
        assert_eq!(status(read(&headers, body, 5, minute).await), StatusCode::PAYLOAD_TOO_LARGE);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("6"));
        let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, BoxError>>());
        assert_eq!(status(read(&headers, silent, 5, minute).await), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_are_given_up() {
        let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes, BoxError>>());
        let result = read(&HeaderMap::new(), silent, 5, Duration::from_secs(1)).await;
        assert_eq!(result.unwrap_err().status(), StatusCode::REQUEST_TIMEOUT);
    }

    type BoxError = Box<dyn std::error::Error + Send + Sync>;
}
