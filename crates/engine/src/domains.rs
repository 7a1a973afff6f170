//! Which domain a host name means: a map read on every redirect and replaced whole when a domain
//! is registered.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use shunt_domain::DomainId;

/// Host names of all registered domains. A host that nobody registered means the default domain.
#[derive(Debug, Default)]
pub struct DomainMap(ArcSwap<HashMap<String, DomainId>>);

impl DomainMap {
    /// Replaces the map.
    pub fn replace(&self, domains: impl IntoIterator<Item = (DomainId, String)>) {
        let map = domains.into_iter().map(|(id, host)| (host, id)).collect();
        self.0.store(Arc::new(map));
    }

    /// The domain of a `Host` header or `:authority`: port and one trailing dot are ignored, case
    /// is folded. Constant time; free when no domain is registered.
    pub fn of_host(&self, host: &[u8]) -> DomainId {
        let map = self.0.load();
        if map.is_empty() {
            return DomainId::DEFAULT;
        }
        let Ok(host) = std::str::from_utf8(host) else {
            return DomainId::DEFAULT;
        };
        let name = bare(host);
        if let Some(id) = map.get(name) {
            return *id;
        }
        map.get(&name.to_ascii_lowercase()).copied().unwrap_or_default()
    }

    /// The host name of a domain; `None` for the default one.
    pub fn name(&self, id: DomainId) -> Option<String> {
        self.0.load().iter().find(|(_, known)| **known == id).map(|(host, _)| host.clone())
    }

    /// All registered host names.
    pub fn hosts(&self) -> Vec<String> {
        self.0.load().keys().cloned().collect()
    }
}

/// A host without port and trailing dot.
fn bare(host: &str) -> &str {
    let without_port = if host.starts_with('[') {
        host.find(']').and_then(|end| host.get(..=end)).unwrap_or(host)
    } else {
        host.split(':').next().unwrap_or(host)
    };
    without_port.strip_suffix('.').unwrap_or(without_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_host_is_the_same_domain() {
        let map = DomainMap::default();
        assert_eq!(map.of_host(b"go.example"), DomainId::DEFAULT);
        map.replace([(DomainId(3), "go.example".to_owned()), (DomainId(4), "[::1]".to_owned())]);
        for host in ["go.example", "GO.example", "go.example:8080", "go.example.", "Go.Example.:1"]
        {
            assert_eq!(map.of_host(host.as_bytes()), DomainId(3), "{host}");
        }
        assert_eq!(map.of_host(b"[::1]:80"), DomainId(4));
        for host in ["", "example", "xgo.example", "go.example.evil", "\u{e9}"] {
            assert_eq!(map.of_host(host.as_bytes()), DomainId::DEFAULT, "{host}");
        }
        assert_eq!(map.of_host(&[0xff, 0xfe]), DomainId::DEFAULT);
        assert_eq!(map.name(DomainId(3)).as_deref(), Some("go.example"));
    }
}
