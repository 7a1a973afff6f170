//! The characters that generated codes are made of, and the arithmetic of their space.

use shunt_domain::Code;
use shunt_domain::code::is_code_byte;
use shunt_domain::reserved::is_reserved;

/// The characters of generated codes: 2 to 64 distinct bytes out of `0-9 A-Z a-z _ -`.
///
/// The order matters to the allocator `range` only: it maps numbers to codes by it, so the same
/// letters in another order are another alphabet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alphabet(Box<[u8]>);

/// Why a text is no alphabet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlphabetError {
    /// Fewer than two characters, or more than 64.
    #[error("an alphabet has 2 to 64 characters, this one has {0}")]
    Size(usize),
    /// A character that may not stand in a code.
    #[error("{0:?} can't stand in a code; use 0-9, A-Z, a-z, _ and - only")]
    BadCharacter(char),
    /// The same character twice.
    #[error("{0:?} is there twice; every character of an alphabet is there once")]
    Repeated(char),
}

impl Default for Alphabet {
    fn default() -> Self {
        Self(Self::BASE62.as_bytes().into())
    }
}

impl Alphabet {
    /// Digits, capitals, small letters: the default.
    pub const BASE62: &str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

    /// Sizes of spaces are exact up to this number of codes and "very large" above.
    pub const MAX_COUNTED: u64 = 1 << 63;

    /// Checks a text that should be an alphabet.
    ///
    /// # Errors
    /// [`AlphabetError`] names the rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, AlphabetError> {
        let count = text.chars().count();
        if !(2..=64).contains(&count) {
            return Err(AlphabetError::Size(count));
        }
        let mut seen = [false; 128];
        for c in text.chars() {
            let slot = u8::try_from(c).ok().filter(|byte| is_code_byte(*byte));
            match slot.and_then(|byte| seen.get_mut(usize::from(byte))) {
                None => return Err(AlphabetError::BadCharacter(c)),
                Some(true) => return Err(AlphabetError::Repeated(c)),
                Some(slot) => *slot = true,
            }
        }
        Ok(Self(text.as_bytes().into()))
    }

    /// How many characters there are.
    pub fn size(&self) -> u64 {
        self.0.len() as u64
    }

    /// The alphabet as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// How many codes of `length` characters there are; `None` above [`Self::MAX_COUNTED`].
    pub fn space(&self, length: usize) -> Option<u64> {
        let length = u32::try_from(length).ok()?;
        self.size().checked_pow(length).filter(|space| *space <= Self::MAX_COUNTED)
    }

    /// The longest length whose space can still be counted: 10 for base62, 63 for two characters.
    pub fn countable_length(&self) -> usize {
        (1..=63).take_while(|length| self.space(*length).is_some()).last().unwrap_or(1)
    }

    /// The character with this number, modulo the size.
    pub(super) fn symbol(&self, digit: u64) -> u8 {
        // The remainder is below 64 and below the length of the slice, so `get` always hits.
        let index = (digit % self.size()) as usize;
        self.0.get(index).copied().unwrap_or(b'0')
    }

    /// `value` as exactly `length` digits, most significant first. Injective below
    /// `space(length)`.
    pub(super) fn digits(&self, mut value: u64, length: usize) -> Vec<u8> {
        let mut text = vec![0; length];
        for slot in text.iter_mut().rev() {
            *slot = self.symbol(value);
            value /= self.size();
        }
        text
    }
}

/// A code from bytes of an alphabet; `None` for a reserved word.
pub(super) fn unreserved(symbols: &[u8]) -> Option<Code> {
    let text = std::str::from_utf8(symbols).ok()?;
    if is_reserved(text) { None } else { Code::parse(text).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alphabet_is_two_to_sixty_four_distinct_code_characters() {
        assert_eq!(Alphabet::parse(Alphabet::BASE62), Ok(Alphabet::default()));
        assert!(Alphabet::parse("01").is_ok());
        assert_eq!(Alphabet::parse(&format!("{}-_", Alphabet::BASE62)).map(|a| a.size()), Ok(64));
        assert_eq!(Alphabet::parse(""), Err(AlphabetError::Size(0)));
        assert_eq!(Alphabet::parse("a"), Err(AlphabetError::Size(1)));
        assert_eq!(
            Alphabet::parse(&format!("{}-_.", Alphabet::BASE62)),
            Err(AlphabetError::Size(65))
        );
        assert_eq!(Alphabet::parse("aba"), Err(AlphabetError::Repeated('a')));
        for bad in ['.', '/', 'ä', ' ', '%', '\u{1f600}'] {
            assert_eq!(Alphabet::parse(&format!("ab{bad}")), Err(AlphabetError::BadCharacter(bad)));
        }
    }

    #[test]
    fn spaces_are_exact_or_none() {
        let base62 = Alphabet::default();
        assert_eq!(base62.space(1), Some(62));
        assert_eq!(base62.space(7), Some(3_521_614_606_208));
        assert_eq!(base62.space(10), Some(839_299_365_868_340_224));
        assert_eq!(base62.space(11), None);
        assert_eq!(base62.space(128), None);
        assert_eq!(base62.countable_length(), 10);
        let binary = Alphabet::parse("01").unwrap();
        assert_eq!(binary.space(63), Some(1 << 63));
        assert_eq!(binary.space(64), None);
        assert_eq!(binary.countable_length(), 63);
    }

    #[test]
    fn digits_are_positional() {
        let alphabet = Alphabet::parse("abc").unwrap();
        assert_eq!(alphabet.digits(0, 3), b"aaa");
        assert_eq!(alphabet.digits(5, 3), b"abc");
        assert_eq!(alphabet.digits(26, 3), b"ccc");
    }
}
