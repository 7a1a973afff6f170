//! Caps on connections: in all, and per address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shunt_domain::limit::customer;

const SHARDS: usize = 16;

/// The caps and the counts, shared by all cores.
pub struct ConnectionLimits {
    max: usize,
    max_per_address: usize,
    open: AtomicUsize,
    by_address: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
}

/// Why a connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All places are taken.
    Full,
    /// This address holds as many as one address may.
    Address,
}

impl ConnectionLimits {
    /// At most `max` connections, at most `max_per_address` from one IPv4 address or IPv6 /64.
    pub fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_per_address,
            open: AtomicUsize::new(0),
            by_address: std::array::from_fn(|_| Mutex::new(HashMap::new())),
        })
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place for a connection from `address`; trusted proxies are only counted in all.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn admit(self: &Arc<Self>, address: IpAddr, trusted: bool) -> Result<Place, Refused> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        let holder = (!trusted).then(|| customer(address));
        if let Some(holder) = holder {
            let mut counts = self.shard(holder).lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(holder).or_insert(0);
            if *count >= self.max_per_address {
                drop(counts);
                self.open.fetch_sub(1, Ordering::Relaxed);
                return Err(Refused::Address);
            }
            *count += 1;
        }
        Ok(Place { limits: Arc::clone(self), holder })
    }

    fn shard(&self, holder: IpAddr) -> &Mutex<HashMap<IpAddr, usize>> {
        let byte = match holder {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(v6) => v6.octets()[7],
        };
        &self.by_address[usize::from(byte) % SHARDS]
    }
}

/// A connection's place; given back when dropped.
pub struct Place {
    limits: Arc<ConnectionLimits>,
    holder: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(holder) = self.holder {
            let mut counts =
                self.limits.shard(holder).lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = counts.get_mut(&holder) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let limits = ConnectionLimits::new(3, 2);
        let first = limits.admit(ip("192.0.2.1"), false).ok().unwrap();
        let _second = limits.admit(ip("192.0.2.1"), false).ok().unwrap();
        assert_eq!(limits.admit(ip("192.0.2.1"), false).err(), Some(Refused::Address));
        let _third = limits.admit(ip("192.0.2.2"), false).ok().unwrap();
        assert_eq!(limits.admit(ip("192.0.2.3"), false).err(), Some(Refused::Full));
        drop(first);
        assert!(limits.admit(ip("192.0.2.1"), false).is_ok());
        assert_eq!(limits.open(), 2);
    }

    #[test]
    fn one_ipv6_network_is_one_holder_and_proxies_are_exempt() {
        let limits = ConnectionLimits::new(100, 1);
        let _one = limits.admit(ip("2001:db8::1"), false).ok().unwrap();
        assert_eq!(limits.admit(ip("2001:db8::2"), false).err(), Some(Refused::Address));
        assert!(limits.admit(ip("2001:db8:0:1::2"), false).is_ok());
        let _mapped = limits.admit(ip("::ffff:192.0.2.1"), false).ok().unwrap();
        assert_eq!(limits.admit(ip("192.0.2.1"), false).err(), Some(Refused::Address));
        let proxies: Vec<_> =
            (0..50).filter_map(|_| limits.admit(ip("10.0.0.1"), true).ok()).collect();
        assert_eq!(proxies.len(), 50);
    }
}
