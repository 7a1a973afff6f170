//! Host names of short links: their numbers, and the target rules that follow from them.

use std::collections::HashMap;
use std::sync::Arc;

use shunt_domain::target::OwnHost;
use shunt_domain::{DomainId, Target, TargetRules};

use super::error::FieldError;

/// The host names under which codes live, as known to this process. A snapshot: never changed,
/// only replaced.
#[derive(Clone, Debug, Default)]
pub struct DomainTable {
    /// The host of the base URL, normalised: another name of the default domain.
    base_host: Box<str>,
    by_host: HashMap<Box<str>, DomainId>,
    by_id: HashMap<DomainId, Box<str>>,
    rules: Arc<TargetRules>,
}

impl DomainTable {
    /// From the base URL, the operator's extra schemes, and the registered domains.
    pub(super) fn new(
        base_url: &str,
        extra_schemes: &[String],
        registered: &[(DomainId, String)],
    ) -> Self {
        let mut own_hosts: Vec<OwnHost> = OwnHost::from_base_url(base_url).into_iter().collect();
        own_hosts.extend(registered.iter().filter_map(|(_, host)| OwnHost::parse(host)));
        let rules = TargetRules { own_hosts, extra_schemes: extra_schemes.to_vec() };
        Self {
            base_host: base_host(base_url),
            by_host: registered.iter().map(|(id, host)| (host.as_str().into(), *id)).collect(),
            by_id: registered.iter().map(|(id, host)| (*id, host.as_str().into())).collect(),
            rules: Arc::new(rules),
        }
    }

    /// The domain of a normalised host name; `None` when nobody registered it. The host of the
    /// base URL is the default domain.
    pub fn find(&self, host: &str) -> Option<DomainId> {
        if host == &*self.base_host {
            return Some(DomainId::DEFAULT);
        }
        self.by_host.get(host).copied()
    }

    /// The host name of a domain; `None` for the default one and for a number nobody knows.
    pub fn host(&self, domain: DomainId) -> Option<&str> {
        self.by_id.get(&domain).map(|host| &**host)
    }

    /// The registered domains, by number.
    pub fn registered(&self) -> Vec<(DomainId, String)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(id, host)| (*id, host.to_string())).collect();
        all.sort();
        all
    }

    /// The rules under which targets are judged: the service's own hosts are loops.
    pub fn rules(&self) -> &TargetRules {
        &self.rules
    }
}

/// The one spelling of a host name in which two are compared and stored: lower-case ASCII,
/// punycode, no trailing dot. No port, no brackets, no path.
///
/// # Errors
/// A [`FieldError`] on `domain` for what is no plain host name.
pub fn normalise_host(host: &str) -> Result<String, FieldError> {
    let bad = |detail: &str| FieldError::new("domain", "bad-domain", detail);
    if host.bytes().any(|b| b"/?#@:[]\\%".contains(&b)) {
        return Err(bad("a domain is a host name alone: no scheme, port, path or credentials"));
    }
    // The parser of targets judges hosts already; a domain is held to the same rules.
    let target = Target::parse(&format!("http://{host}/"), &TargetRules::default())
        .map_err(|reason| bad(reason.detail()))?;
    if target.mixed_script() {
        return Err(bad("the domain mixes scripts, so readers take it for another one"));
    }
    Ok(target.host_key().into_owned())
}

fn base_host(base_url: &str) -> Box<str> {
    Target::parse(base_url, &TargetRules::default())
        .map(|target| target.host_key().into())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_spelling() {
        for (typed, normal) in [
            ("Go.Example", "go.example"),
            ("go.example.", "go.example"),
            ("müller.example", "xn--mller-kva.example"),
            ("XN--mller-kva.example", "xn--mller-kva.example"),
        ] {
            assert_eq!(normalise_host(typed).as_deref(), Ok(normal), "{typed}");
        }
        for bad in [
            "",
            "go.example:80",
            "http://go.example",
            "go.example/x",
            "a@b",
            "[::1]",
            "a b",
            "go..example",
            "a\\b",
            "go%2eexample",
        ] {
            assert!(normalise_host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_base_host_is_the_default_domain_and_all_hosts_are_loops() {
        let registered = [(DomainId(7), "go.example".to_owned())];
        let table = DomainTable::new("https://s.example/x", &[], &registered);
        assert_eq!(table.find("s.example"), Some(DomainId::DEFAULT));
        assert_eq!(table.find("go.example"), Some(DomainId(7)));
        assert_eq!(table.find("other.example"), None);
        assert_eq!(table.host(DomainId(7)), Some("go.example"));
        assert_eq!(table.host(DomainId::DEFAULT), None);
        for loops in ["https://go.example/a", "http://GO.example.:81/", "https://s.example/x/a"] {
            assert!(Target::parse(loops, table.rules()).is_err(), "{loops}");
        }
        assert!(Target::parse("https://s.example/other", table.rules()).is_ok());
    }
}
