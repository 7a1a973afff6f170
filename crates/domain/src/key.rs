//! Who may do what: owners, API keys and their scopes.

use std::fmt;

/// Who a link belongs to. 0 is nobody in particular: links made without an API key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub u64);

impl OwnerId {
    /// The owner of links that were made without an API key.
    pub const ANONYMOUS: Self = Self(0);
}

/// The number of an API key. It is no secret; the secret itself is only known as its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKeyId(pub u64);

/// One thing that an API key may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Read one's own links and their figures.
    Read,
    /// Create, change and delete one's own links.
    Create,
    /// Everything, for every owner: keys, domains, import and export too.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Read, Self::Create, Self::Admin];

    /// The scope's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Admin => "admin",
        }
    }

    /// The scope called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of scopes; admin holds all the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

impl Scopes {
    /// Only what admin keys may do, that is everything.
    pub const ADMIN: Self = Self(0b100);

    /// The set with `scope` added.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// Whether the set allows `scope`.
    pub const fn allows(self, scope: Scope) -> bool {
        self.0 & (1 << Scope::Admin as u8) != 0 || self.0 & (1 << scope as u8) != 0
    }

    /// The scopes that were named one by one.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & (1 << *scope as u8) != 0)
    }

    /// The set as stored.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set from its stored bits; unknown bits are dropped.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b111)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_allows_everything_and_others_only_themselves() {
        for scope in Scope::ALL {
            assert!(Scopes::ADMIN.allows(scope));
            let one = Scopes::default().with(scope);
            for other in Scope::ALL {
                assert_eq!(one.allows(other), scope == Scope::Admin || scope == other);
            }
            assert_eq!(Scope::from_name(scope.name()), Some(scope));
        }
    }
}
