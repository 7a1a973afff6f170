//! The links of a measurement: code and target are functions of a number, so that every server can
//! be given the same ones and every answer checked without keeping them.
//!
//! Codes are seven characters of `0-9a-z` from a permutation of the numbers below 36^7: nginx's
//! `map` ignores case, so codes that differ only in case could not be compared with it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

const SPACE: u64 = 36 * 36 * 36 * 36 * 36 * 36 * 36;
/// Odd and no multiple of 3, so prime to 36^7: multiplying by it permutes.
const STEP: u64 = 48_271_000_021;
const OFFSET: u64 = 12_345;

/// The code of link number `index` (below 36^7).
pub fn code(index: u64) -> String {
    let mut rest =
        ((u128::from(index) * u128::from(STEP) + u128::from(OFFSET)) % u128::from(SPACE)) as u64;
    let mut digits = [b'0'; 7];
    for digit in digits.iter_mut().rev() {
        let value = (rest % 36) as u8;
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
        rest /= 36;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

/// The first of the codes that are numbers.
pub const FIRST_NUMBER: u64 = 1_000_000;

/// The code of link number `index` (below 9,000,000) where pgbench must be able to make it: it
/// knows numbers only. Seven characters, too.
pub fn number(index: u64) -> String {
    (FIRST_NUMBER + index).to_string()
}

/// Words for paths: searches need terms that are rare, common and absent.
const WORDS: [&str; 16] = [
    "articles", "products", "news", "wiki", "photos", "events", "reports", "shop", "blog", "docs",
    "recipes", "travel", "music", "video", "science", "sports",
];

/// The target of link number `index`: 40 to 110 bytes, as URLs that people shorten are.
pub fn target(index: u64) -> String {
    let mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = |shift: u32| WORDS.get((mixed >> shift) as usize & 15).copied().unwrap_or("page");
    let mut target = format!("https://www.example.com/{}/{index}", word(60));
    // Zero to three more parts.
    for part in 0..(mixed >> 40 & 3) as u32 {
        target.push('/');
        target.push_str(word(4 * part + 8));
        target.push_str(&format!("-{:05}", mixed >> (20 + part) & 0xffff));
    }
    if mixed >> 44 & 3 == 0 {
        target.push_str("?utm_source=newsletter&id=");
        target.push_str(&(mixed >> 50).to_string());
    }
    target
}

/// Directory where datasets are kept between runs.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// # Errors
    /// The directory can't be made.
    pub fn new(root: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        Ok(Self { root: root.to_owned() })
    }

    /// Where the data lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `code<TAB>target` lines: the generator's keys with their targets.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn keys(&self, links: u64) -> anyhow::Result<PathBuf> {
        self.file(&format!("keys-{links}.tsv"), links, |index, out| {
            writeln!(out, "{}\t{}", code(index), target(index))
        })
    }

    /// The same as CSV with a head line, for import.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn csv(&self, links: u64) -> anyhow::Result<PathBuf> {
        self.file(&format!("links-{links}.csv"), links, |index, out| {
            if index == 0 {
                writeln!(out, "code,target")?;
            }
            writeln!(out, "{},{}", code(index), target(index))
        })
    }

    /// As [`Self::keys`], with codes that are numbers.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn number_keys(&self, links: u64) -> anyhow::Result<PathBuf> {
        self.file(&format!("number-keys-{links}.tsv"), links, |index, out| {
            writeln!(out, "{}\t{}", number(index), target(index))
        })
    }

    /// As [`Self::csv`], with codes that are numbers.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn number_csv(&self, links: u64) -> anyhow::Result<PathBuf> {
        self.file(&format!("number-links-{links}.csv"), links, |index, out| {
            if index == 0 {
                writeln!(out, "code,target")?;
            }
            writeln!(out, "{},{}", number(index), target(index))
        })
    }

    /// The same as lines of an nginx `map`.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn nginx_map(&self, links: u64) -> anyhow::Result<PathBuf> {
        self.file(&format!("map-{links}.conf"), links, |index, out| {
            writeln!(out, "/{} \"{}\";", code(index), target(index))
        })
    }

    /// Writes a file once: under another name until it is whole.
    fn file(
        &self,
        name: &str,
        links: u64,
        line: impl Fn(u64, &mut BufWriter<File>) -> std::io::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        if path.exists() {
            return Ok(path);
        }
        let partial = self.root.join(format!("{name}.partial"));
        let written = (|| {
            let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
            for index in 0..links {
                line(index, &mut out)?;
            }
            out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&partial, &path)
        })();
        written.with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_lower_case_and_seven_long() {
        let codes: HashSet<String> = (0..200_000).map(code).collect();
        assert_eq!(codes.len(), 200_000);
        assert!(codes.iter().all(|code| {
            code.len() == 7 && code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        }));
        assert!(number(0).len() == 7 && number(8_999_999).len() == 7);
        // Prime to 36^7 = 2^14 · 3^14, or the multiplication would not permute.
        const { assert!(STEP % 2 == 1 && !STEP.is_multiple_of(3) && STEP < SPACE) };
    }

    #[test]
    fn targets_are_plain_urls_of_many_lengths() {
        let lengths: HashSet<usize> = (0..10_000).map(|index| target(index).len()).collect();
        assert!(lengths.len() > 40, "{}", lengths.len());
        assert!(lengths.iter().all(|length| (30..=140).contains(length)), "{lengths:?}");
        assert!((0..1_000).all(|index| {
            // No byte that CSV, TSV or an nginx map would read as its own.
            target(index).bytes().all(|b| b.is_ascii_graphic() && !b"\",;{}$\\'".contains(&b))
        }));
    }

    #[test]
    fn files_are_written_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path()).unwrap();
        let csv = std::fs::read_to_string(cache.csv(3).unwrap()).unwrap();
        assert_eq!(csv.lines().count(), 4);
        assert_eq!(csv.lines().nth(2), Some(&*format!("{},{}", code(1), target(1))));
        std::fs::write(cache.root().join("keys-3.tsv"), "kept").unwrap();
        assert_eq!(std::fs::read_to_string(cache.keys(3).unwrap()).unwrap(), "kept");
        let map = std::fs::read_to_string(cache.nginx_map(2).unwrap()).unwrap();
        assert!(map.starts_with(&format!("/{} \"https://", code(0))), "{map}");
    }
}
