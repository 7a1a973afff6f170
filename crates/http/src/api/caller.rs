//! Who calls, and whether they may.
//!
//! Invariants:
//! - a credential that is not good is refused, never ignored in favour of what anonymous callers
//!   may do;
//! - without a credential, creating one link from this machine is all there is, unless
//!   `auth.anonymous_create` opens that one thing to everybody;
//! - only the listener says where a request comes from ([`Client`]); without its word the caller
//!   is a stranger.

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderName};
use http::request::Parts;
use shunt_domain::{Deadline, Scope};
use shunt_engine::auth::{Actor, AuthError};

use crate::app::App;
use crate::client::{Client, Transport};
use crate::limited;
use crate::problem::Problem;
use crate::web::origin;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who makes the request.
///
/// # Errors
/// 401 for a credential that is not good, 429 after too many of them; 503 when nobody could be
/// asked.
pub(crate) async fn identify(
    app: &App,
    parts: &Parts,
    deadline: Deadline,
) -> Result<Actor, Problem> {
    if parts.extensions.get::<Client>().is_some_and(|c| c.transport == Transport::Local) {
        return Ok(Actor::Local);
    }
    match credential(parts)? {
        None => Ok(Actor::Anonymous),
        Some(secret) => match app.auth.authenticate(secret, deadline).await {
            Err(AuthError::BadKey) => {
                let client = parts.extensions.get::<Client>();
                limited::bad_login(app, client, &parts.headers).await?;
                Err(AuthError::BadKey.into())
            }
            known => Ok(known?),
        },
    }
}

/// The API key of a request: `Authorization: Bearer` or `X-Api-Key`.
fn credential(parts: &Parts) -> Result<Option<&str>, Problem> {
    let bad = |detail: &'static str| Problem::unauthorized("bad-key", detail);
    let mut found = None;
    for (name, value) in &parts.headers {
        let bearer = name == AUTHORIZATION;
        if !bearer && name != X_API_KEY {
            continue;
        }
        let text = value.to_str().map_err(|_| bad("the API key holds strange characters"))?;
        let secret = if bearer {
            let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(bad("send the API key as Authorization: Bearer, or in X-Api-Key"));
            }
            rest.trim()
        } else {
            text.trim()
        };
        if found.is_some_and(|earlier| earlier != secret) {
            return Err(bad("two different API keys were sent; send one"));
        }
        found = Some(secret);
    }
    Ok(found)
}

/// The caller, who must hold `scope`.
///
/// # Errors
/// 401 without a key, 403 without the scope.
pub(crate) async fn with_scope(
    app: &App,
    parts: &Parts,
    scope: Scope,
    deadline: Deadline,
) -> Result<Actor, Problem> {
    let actor = identify(app, parts, deadline).await?;
    require(&actor, scope)?;
    Ok(actor)
}

fn require(actor: &Actor, scope: Scope) -> Result<(), Problem> {
    if *actor == Actor::Anonymous {
        let detail = "this needs an API key; send it as Authorization: Bearer";
        return Err(Problem::unauthorized("key-required", detail));
    }
    if !actor.may(scope) {
        let detail = format!("the API key lacks the scope {scope}");
        return Err(
            Problem::new(StatusCode::FORBIDDEN, "scope-missing", detail).on("Authorization")
        );
    }
    Ok(())
}

/// The caller of a request that creates one link: a key with that scope, or nobody in particular
/// where that is allowed.
///
/// # Errors
/// 401, or 403 for a page of another site.
pub(crate) async fn creator(
    app: &App,
    parts: &Parts,
    deadline: Deadline,
) -> Result<Actor, Problem> {
    let actor = identify(app, parts, deadline).await?;
    if actor != Actor::Anonymous {
        require(&actor, Scope::Create)?;
        return Ok(actor);
    }
    let client = parts.extensions.get::<Client>();
    if origin::may_be_anonymous(client, &parts.headers, &app.settings) {
        return Ok(actor);
    }
    if origin::is_cross_site(&parts.headers, &app.settings) {
        let detail = "a page of another site can't create links here without an API key";
        return Err(Problem::new(StatusCode::FORBIDDEN, "cross-site", detail));
    }
    let detail = "creating links without an API key is for this machine only; send a key as \
                  Authorization: Bearer, or set auth.anonymous_create";
    Err(Problem::unauthorized("key-required", detail))
}
