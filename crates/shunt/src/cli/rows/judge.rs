//! What a dry run can say of a row without the server: whether it is JSON, has a target that the
//! one parser accepts, and a code that could be one.

use serde_json::Value;
use shunt_domain::reserved::is_reserved;
use shunt_domain::target::OwnHost;
use shunt_domain::{Code, Target, TargetRules};

use crate::config::Config;

/// The rules of this configuration; hosts registered in the store are not known here.
pub(crate) fn rules(config: &Config) -> TargetRules {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 8080));
    let base_url = config.base_url(config.listen.unwrap_or(any));
    TargetRules {
        own_hosts: OwnHost::from_base_url(&base_url).into_iter().collect(),
        extra_schemes: config.links.extra_schemes.clone(),
    }
}

/// Why a row will be refused, as far as can be told.
pub(crate) fn refusal(row: &[u8], rules: &TargetRules) -> Option<String> {
    let row: Value = match serde_json::from_slice(row) {
        Ok(row) => row,
        Err(error) => return Some(format!("no JSON: {error} (bad-json)")),
    };
    if let Some(code) = row.get("code").and_then(Value::as_str) {
        if let Err(error) = Code::parse(code) {
            return Some(format!("code: {error} (bad-code)"));
        }
        if is_reserved(code) {
            return Some("code: this word belongs to the service itself (reserved)".to_owned());
        }
    }
    if row.get("deleted_at").is_some() {
        return None;
    }
    match row.get("target").and_then(Value::as_str) {
        None => Some("target: it is missing (missing)".to_owned()),
        Some(target) => Target::parse(target, rules)
            .err()
            .map(|reason| format!("target: {} ({})", reason.detail(), reason.code())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_judged_as_the_server_does() {
        let config = Config {
            configured_base_url: Some("https://go.example/s".to_owned()),
            ..Config::default()
        };
        let rules = rules(&config);
        let judged = |row: &str| refusal(row.as_bytes(), &rules);
        assert_eq!(judged(r#"{"target":"https://example.com/"}"#), None);
        assert_eq!(judged(r#"{"code":"a","deleted_at":"x"}"#), None);
        for (row, word) in [
            (r#"{"target":"javascript:alert(1)"}"#, "target: "),
            (r#"{"target":"https://go.example/s/x"}"#, "target: "),
            (r#"{"target":"https://a.example/","code":"a b"}"#, "bad-code"),
            (r#"{"target":"https://a.example/","code":"API"}"#, "reserved"),
            (r#"{"code":"a"}"#, "missing"),
            ("{", "bad-json"),
        ] {
            let why = judged(row).unwrap_or_default();
            assert!(why.contains(word), "{row} gives {why:?}");
        }
    }
}
