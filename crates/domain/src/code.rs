//! Codes, domains and the key of a link.

use std::borrow::Borrow;
use std::fmt;

/// The path segment that names a link: 1 to 128 bytes of `0-9 A-Z a-z _ -`.
///
/// Compared byte by byte: `abc` and `ABC` are two codes. Percent-escapes are decoded once by the
/// router before a code is parsed, so one code has one spelling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(Box<str>);

/// Why a text is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// No bytes at all.
    #[error("a code needs at least one character")]
    Empty,
    /// More than [`Code::MAX_LEN`] bytes.
    #[error("a code is at most 128 characters long")]
    TooLong,
    /// A byte outside `0-9 A-Z a-z _ -`.
    #[error("a code consists of the characters 0-9, A-Z, a-z, _ and - only")]
    BadCharacter,
}

impl Code {
    /// The longest code, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks a text that should be a code.
    ///
    /// # Errors
    /// [`CodeError`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        Self::check(text.as_bytes())?;
        Ok(Self(text.into()))
    }

    /// Checks the bytes of a path segment without building a code (the hot path's test).
    ///
    /// # Errors
    /// [`CodeError`] says which rule they break.
    pub fn check(bytes: &[u8]) -> Result<(), CodeError> {
        if bytes.is_empty() {
            return Err(CodeError::Empty);
        }
        if bytes.len() > Self::MAX_LEN {
            return Err(CodeError::TooLong);
        }
        if bytes.iter().all(|&b| is_code_byte(b)) { Ok(()) } else { Err(CodeError::BadCharacter) }
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a byte may stand in a code.
pub const fn is_code_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({})", self.0)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Code {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Code {
    type Err = CodeError;
    fn from_str(text: &str) -> Result<Self, CodeError> {
        Self::parse(text)
    }
}

/// The number of a short-link domain (a host name under which codes live). 0 is the default
/// domain, which also answers for every host that nobody registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u32);

impl DomainId {
    /// The default domain.
    pub const DEFAULT: Self = Self(0);
}

/// What identifies a link: its code and the domain it lives on. The same code on two domains is
/// two links.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkKey {
    /// The code; first, because stores distribute and sort by it.
    pub code: Code,
    /// The domain.
    pub domain: DomainId,
}

impl LinkKey {
    /// The link `code` on `domain`.
    pub const fn new(domain: DomainId, code: Code) -> Self {
        Self { code, domain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_what_the_contract_says() {
        for good in ["a", "Zz09_-", &"x".repeat(128)] {
            assert!(Code::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Code::parse(""), Err(CodeError::Empty));
        assert_eq!(Code::parse(&"x".repeat(129)), Err(CodeError::TooLong));
        for bad in ["a b", "a/b", "a.b", "a+", "ä", "a%41", "a\0", "a\n"] {
            assert_eq!(Code::parse(bad), Err(CodeError::BadCharacter), "{bad:?}");
        }
    }

    #[test]
    fn case_matters() {
        assert_ne!(Code::parse("abc"), Code::parse("ABC"));
    }
}
