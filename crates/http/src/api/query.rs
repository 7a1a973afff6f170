//! Query parameters: each known, each at most once.

use axum::extract::Query;
use http::Uri;
use shunt_domain::Timestamp;

use super::{json, time};
use crate::problem::Problem;

/// The parameters of a request, taken one by one.
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query and refuses parameters that are unknown or there twice.
    ///
    /// # Errors
    /// 400 with the parameter's name.
    pub(crate) fn parse(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Problem::bad_field("query", "bad-query", "the query can't be read"))?;
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let detail = if known.is_empty() {
                    "this address takes no parameters".to_owned()
                } else {
                    format!("there is no such parameter here; known are: {}", known.join(", "))
                };
                let name: String = name.chars().take(64).collect();
                return Err(Problem::bad_field(name, "unknown-parameter", detail));
            }
            if pairs.iter().skip(at + 1).any(|(other, _)| other == name) {
                let detail = "this parameter is there twice; give it once";
                return Err(Problem::bad_field(name.clone(), "repeated-parameter", detail));
            }
        }
        Ok(Self(pairs))
    }

    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(there, _)| there == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(crate) fn instant(&mut self, name: &str) -> Result<Option<Timestamp>, Problem> {
        self.text(name)
            .map(|text| time::parse(&text).ok_or_else(|| json::bad_instant(name).into()))
            .transpose()
    }

    pub(crate) fn number(
        &mut self,
        name: &'static str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<u32>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u32>().ok().filter(|number| digits && range.contains(number));
        number.map(Some).ok_or_else(|| {
            let detail = format!("this must be {} to {}", range.start(), range.end());
            Problem::bad_field(name, "out-of-range", detail)
        })
    }
}
