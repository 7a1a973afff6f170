//! `/setup`: the one-time link of the first start, which makes the first admin key.
//!
//! Opening the link changes nothing (chat programs and mail scanners open links too); the button
//! does. A token that is wrong, used or replaced answers 410, whichever it is. The page is never
//! stored and never sends its address on.

use askama::Template;
use axum::Extension;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Query, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use shunt_engine::auth::{AuthError, SETUP_PREFIX};

use super::errors::{Wants, error_page};
use super::headers::{PAGE_CSP, page};
use super::origin::is_cross_site;
use super::{Page, render};
use crate::app::AppState;
use crate::client::Client;
use crate::limited;

/// The name of the key in the list of keys.
const KEY_NAME: &str = "first admin";

/// A setup secret is its prefix and 32 bytes in base64.
const TOKEN_LEN: usize = SETUP_PREFIX.len() + 43;

/// The token, in the address of the link and in the form.
#[derive(Deserialize)]
pub(crate) struct Token {
    #[serde(default)]
    token: String,
}

impl Token {
    /// Whether it could be one at all.
    fn is_plausible(&self) -> bool {
        self.token.starts_with(SETUP_PREFIX) && self.token.len() == TOKEN_LEN
    }
}

#[derive(Template)]
#[template(path = "setup.html")]
struct SetupTemplate<'a> {
    page: Page<'a>,
    token: &'a str,
    key: Option<&'a str>,
    example: String,
}

/// `GET /setup?token=…`: the button.
pub(crate) async fn form(
    State(state): State<AppState>,
    query: Result<Query<Token>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    match query {
        Ok(Query(token)) if token.is_plausible() => {
            let template = SetupTemplate {
                page: Page::new(&state.settings),
                token: &token.token,
                key: None,
                example: String::new(),
            };
            page(StatusCode::OK, PAGE_CSP, render(&template))
        }
        Ok(_) | Err(_) => error_page(StatusCode::GONE, Wants::from_headers(&headers)),
    }
}

/// `POST /setup`: uses the token up and shows the key, once.
pub(crate) async fn redeem(
    State(state): State<AppState>,
    client: Option<Extension<Client>>,
    headers: HeaderMap,
    form: Result<Form<Token>, FormRejection>,
) -> Response {
    let wants = Wants::from_headers(&headers);
    if is_cross_site(&headers, &state.settings) {
        return error_page(StatusCode::FORBIDDEN, wants);
    }
    let token = match form {
        Ok(Form(token)) if token.is_plausible() => token.token,
        Ok(_) => return error_page(StatusCode::GONE, wants),
        Err(rejection) => return error_page(super::form_status(&rejection), wants),
    };
    match state.auth.redeem_setup(&token, KEY_NAME, state.deadline()).await {
        Ok((_, secret)) => {
            let key = secret.reveal();
            let example = format!(
                "curl -X POST {}/api/v1/links \\\n  -H 'Authorization: Bearer {key}' \\\n  \
                 -H 'Content-Type: application/json' \\\n  \
                 -d '{{\"target\": \"https://example.com/some/long/path\"}}'",
                state.settings.base_url
            );
            let template = SetupTemplate {
                page: Page::new(&state.settings),
                token: "",
                key: Some(key),
                example,
            };
            page(StatusCode::OK, PAGE_CSP, render(&template))
        }
        Err(AuthError::BadSetupSecret) => {
            match limited::bad_login(&state, client.as_deref(), &headers).await {
                Ok(()) => error_page(StatusCode::GONE, wants),
                Err(quota) => limited::page(&quota, wants),
            }
        }
        // What may have happened included: repeating the request then says 410, and a restart
        // prints a new link as long as there is no admin key.
        Err(_) => error_page(StatusCode::SERVICE_UNAVAILABLE, wants),
    }
}
