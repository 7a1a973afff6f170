//! Which domain a host name means: a map read on every redirect and replaced whole when a domain
//! is registered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use shunt_domain::DomainId;

/// Host names of all registered domains. A host that nobody registered means the default domain.
#[derive(Debug, Default)]
pub struct DomainMap {
    map: ArcSwap<HashMap<String, DomainId>>,
    /// Whether any domain is registered. Most services have none, and one flag is quicker to ask
    /// than an empty map.
    any: AtomicBool,
}

impl DomainMap {
    /// Replaces the map.
    pub fn replace(&self, domains: impl IntoIterator<Item = (DomainId, String)>) {
        let map: HashMap<_, _> = domains.into_iter().map(|(id, host)| (host, id)).collect();
        let any = !map.is_empty();
        self.map.store(Arc::new(map));
        self.any.store(any, Ordering::Release);
    }

    /// Whether any domain is registered; else every host means the default one.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The domain of a `Host` header or `:authority`: port and one trailing dot are ignored, case
    /// is folded. Constant time; free when no domain is registered.
    pub fn of_host(&self, host: &[u8]) -> DomainId {
        if !self.any() {
            return DomainId::DEFAULT;
        }
        let map = self.map.load();
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
        self.map.load().iter().find(|(_, known)| **known == id).map(|(host, _)| host.clone())
    }

    /// All registered host names.
    pub fn hosts(&self) -> Vec<String> {
        self.map.load().keys().cloned().collect()
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
