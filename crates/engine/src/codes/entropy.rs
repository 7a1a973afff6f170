//! Random characters from the operating system's generator, buffered.
//!
//! Codes must not be guessable from one another, so no cheaper generator will do; a buffer makes
//! the system call cost little (4 KiB serve some 500 codes).

use super::AllocateError;
use super::alphabet::Alphabet;

/// A buffer of random bytes. Each byte is used once.
pub(super) struct Entropy {
    buffer: Box<[u8; Self::BUFFER]>,
    used: usize,
}

impl Entropy {
    const BUFFER: usize = 4096;

    /// Empty: the first use fills it.
    pub(super) fn new() -> Self {
        Self { buffer: Box::new([0; Self::BUFFER]), used: Self::BUFFER }
    }

    fn byte(&mut self) -> Result<u8, AllocateError> {
        if let Some(byte) = self.buffer.get(self.used) {
            self.used += 1;
            return Ok(*byte);
        }
        getrandom::fill(self.buffer.as_mut_slice())
            .map_err(|error| AllocateError::Entropy(error.to_string()))?;
        self.used = 1;
        Ok(self.buffer[0])
    }

    /// Fills `symbols` with characters of the alphabet, each equally likely: bytes are cut to the
    /// next power of two and those past the alphabet thrown away (at most every second one).
    pub(super) fn symbols(
        &mut self,
        alphabet: &Alphabet,
        symbols: &mut [u8],
    ) -> Result<(), AllocateError> {
        let mask = alphabet.size().next_power_of_two() - 1;
        for slot in symbols {
            *slot = loop {
                let digit = u64::from(self.byte()?) & mask;
                if digit < alphabet.size() {
                    break alphabet.symbol(digit);
                }
            };
        }
        Ok(())
    }
}

/// 32 fresh random bytes, for keys.
pub(super) fn random_key() -> Result<[u8; 32], AllocateError> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| AllocateError::Entropy(error.to_string()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pearson's chi-square over the characters of many codes. With k - 1 degrees of freedom the
    /// statistic is about normal with mean k - 1 and variance 2 (k - 1); seven standard deviations
    /// are passed by chance once in 10^11 runs, while a modulo bias (8 of 62 letters 25 % too
    /// frequent) gives thousands.
    #[test]
    fn every_character_is_equally_likely() {
        for text in
            [Alphabet::BASE62, "abc", "01", "0123456789", "abcdefghijklmnopqrstuvwxyz_-ABCDE"]
        {
            let alphabet = Alphabet::parse(text).unwrap();
            let mut entropy = Entropy::new();
            let mut symbols = vec![0; 200_000];
            entropy.symbols(&alphabet, &mut symbols).unwrap();
            let mut counts = [0_u32; 256];
            for symbol in &symbols {
                counts[usize::from(*symbol)] += 1;
            }
            let expected = symbols.len() as f64 / alphabet.size() as f64;
            let chi: f64 = text
                .bytes()
                .map(|b| (f64::from(counts[usize::from(b)]) - expected).powi(2) / expected)
                .sum();
            let freedom = alphabet.size() as f64 - 1.0;
            let limit = freedom + 7.0 * (2.0 * freedom).sqrt() + 20.0;
            assert!(chi < limit, "{text}: chi-square {chi} over {limit}");
            let all: u32 = text.bytes().map(|b| counts[usize::from(b)]).sum();
            assert_eq!(all as usize, symbols.len(), "only characters of the alphabet");
        }
    }
}
