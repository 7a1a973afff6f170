//! `shunt openapi`: the document that `/openapi.json` serves.

pub(super) fn run() -> anyhow::Result<()> {
    super::output::text_out(shunt_http::api::openapi_json())
}
