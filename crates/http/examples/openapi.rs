//! Prints the OpenAPI document: `cargo run -p shunt-http --example openapi > docs/openapi.json`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(shunt_http::api::openapi_json().as_bytes())
}
