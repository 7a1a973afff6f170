//! The keys a run asks for: a numbered pattern or a file, and the order they are taken in.
//!
//! A file is held in one block with 12 bytes of index a key, so that ten million codes fit a small
//! machine; a pattern is held as its two ends. Both are read-only and shared by all threads.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;

use super::sample::{Rng, Zipf};

/// Where keys come from.
#[derive(Debug)]
pub(super) enum Keys {
    /// `before`, a number of at least `width` digits, `after`.
    Pattern { before: String, after: String, width: usize, first: u64, count: u64 },
    /// Keys read from a file, some or all with the target they must lead to.
    File { block: Vec<u8>, spans: Vec<Span> },
}

/// One key of a file: where it lies in the block; its target follows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    start: u64,
    code: u16,
    target: u16,
}

impl Keys {
    /// Parses `pattern:FIRST..LAST`, where the part `{}` (or `{:07}`, seven digits with leading
    /// zeros) of the pattern stands for the number. The range is half open, as in Rust.
    pub(super) fn pattern(pattern: &str, range: &str) -> anyhow::Result<Self> {
        let (first, last) = range
            .split_once("..")
            .and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)))
            .filter(|(a, b)| a < b)
            .with_context(|| format!("--range {range}: write FIRST..LAST with FIRST < LAST"))?;
        let (before, rest) = pattern.split_once('{').unwrap_or((pattern, "}"));
        let (width, after) = rest
            .split_once('}')
            .with_context(|| format!("--pattern {pattern}: the brace is never closed"))?;
        let width = match width.strip_prefix(":0") {
            Some(digits) => digits.parse::<usize>().ok().filter(|width| *width <= 20),
            None => width.is_empty().then_some(0),
        }
        .with_context(|| format!("--pattern {pattern}: only {{}} and {{:0N}} are understood"))?;
        check(format!("{before}{after}").as_bytes()).map_err(anyhow::Error::msg)?;
        Ok(Self::Pattern {
            before: before.to_owned(),
            after: after.to_owned(),
            width,
            first,
            count: last - first,
        })
    }

    /// Reads a file of keys: one code or path a line, CSV or TSV with the code first and perhaps
    /// the target second (columns named `code` and `target` in a first line are found by name),
    /// or NDJSON objects with `code` and perhaps `target`, as `--record-acks` writes them.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path)
            .with_context(|| format!("--keys {}: the file can't be opened", path.display()))?;
        let mut input = BufReader::with_capacity(1 << 20, file);
        let keys = Self::parse(&mut input).with_context(|| format!("--keys {}", path.display()))?;
        if keys.len() == 0 {
            bail!("--keys {}: the file holds no key", path.display());
        }
        Ok(keys)
    }

    fn parse(input: &mut impl BufRead) -> anyhow::Result<Self> {
        let ahead = input.fill_buf()?;
        if ahead.first() == Some(&b'{') {
            return Self::parse_ndjson(input);
        }
        let first_line = ahead.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let delimiter = if first_line.contains(&b'\t') { b'\t' } else { b',' };
        Self::parse_csv(input, delimiter)
    }

    fn parse_csv(input: &mut impl Read, delimiter: u8) -> anyhow::Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .from_reader(input);
        let (mut block, mut spans) = (Vec::new(), Vec::new());
        let (mut code_at, mut target_at) = (0, 1);
        let mut record = csv::ByteRecord::new();
        let mut first = true;
        while reader.read_byte_record(&mut record)? {
            if std::mem::take(&mut first) {
                let column = |name: &[u8]| {
                    record.iter().position(|field| field.trim_ascii().eq_ignore_ascii_case(name))
                };
                if let Some(at) = column(b"code") {
                    code_at = at;
                    // Without a column of that name no field is a target.
                    target_at = column(b"target").unwrap_or(usize::MAX);
                    continue;
                }
            }
            let code = record.get(code_at).unwrap_or_default().trim_ascii();
            let target = record.get(target_at).unwrap_or_default();
            let line = record.position().map_or(0, csv::Position::line);
            push(&mut block, &mut spans, code, target)
                .map_err(|reason| anyhow::anyhow!("line {line}: {reason}"))?;
        }
        Ok(Self::File { block, spans })
    }

    fn parse_ndjson(input: &mut impl BufRead) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Row {
            code: String,
            #[serde(default)]
            target: String,
        }
        let (mut block, mut spans) = (Vec::new(), Vec::new());
        for (number, line) in input.lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let row: Row =
                serde_json::from_str(&line).with_context(|| format!("line {}", number + 1))?;
            push(&mut block, &mut spans, row.code.as_bytes(), row.target.as_bytes())
                .map_err(|reason| anyhow::anyhow!("line {}: {reason}", number + 1))?;
        }
        Ok(Self::File { block, spans })
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Pattern { count, .. } => *count,
            Self::File { spans, .. } => spans.len() as u64,
        }
    }

    /// Whether at least one key knows its target.
    pub(super) fn has_targets(&self) -> bool {
        matches!(self, Self::File { spans, .. } if spans.iter().any(|span| span.target > 0))
    }

    /// Appends the path of a key, with its leading slash.
    pub(super) fn write_path(&self, index: u64, out: &mut Vec<u8>) {
        match self {
            Self::Pattern { before, after, width, first, .. } => {
                if !before.starts_with('/') {
                    out.push(b'/');
                }
                out.extend_from_slice(before.as_bytes());
                write_number(first + index, *width, out);
                out.extend_from_slice(after.as_bytes());
            }
            Self::File { block, spans } => {
                let code = spans.get(index as usize).and_then(|span| {
                    let start = span.start as usize;
                    block.get(start..start + usize::from(span.code))
                });
                let code = code.unwrap_or_default();
                if code.first() != Some(&b'/') {
                    out.push(b'/');
                }
                out.extend_from_slice(code);
            }
        }
    }

    /// The target a key must lead to, when the file says so.
    pub(super) fn target(&self, index: u64) -> Option<&[u8]> {
        let Self::File { block, spans } = self else {
            return None;
        };
        let span = spans.get(index as usize).filter(|span| span.target > 0)?;
        let start = span.start as usize + usize::from(span.code);
        block.get(start..start + usize::from(span.target))
    }
}

fn push(
    block: &mut Vec<u8>,
    spans: &mut Vec<Span>,
    code: &[u8],
    target: &[u8],
) -> Result<(), &'static str> {
    check(code)?;
    if code.is_empty() {
        return Err("the code is empty");
    }
    let (Ok(code_len), Ok(target_len)) = (u16::try_from(code.len()), u16::try_from(target.len()))
    else {
        return Err("the code or the target is longer than 65,535 bytes");
    };
    spans.push(Span { start: block.len() as u64, code: code_len, target: target_len });
    block.extend_from_slice(code);
    block.extend_from_slice(target);
    Ok(())
}

/// Refuses what would break the request line.
fn check(code: &[u8]) -> Result<(), &'static str> {
    if code.iter().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("a code or path holds only visible ASCII characters; percent-encode the others")
    }
}

/// Writes a number with at least `width` digits.
pub(super) fn write_number(mut number: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    let length = used.max(width).min(digits.len());
    out.extend_from_slice(digits.get(digits.len() - length..).unwrap_or_default());
}

/// The order in which keys are asked for.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// Every key as often as any other.
    Uniform,
    /// The first keys far more often than the last.
    Zipf(Zipf),
    /// One after the other, thread `t` of `n` taking every `n`th; begins again at the end unless
    /// `once`.
    Sequence { next: u64, step: u64, once: bool },
}

impl Order {
    /// The index of the next key, `None` when a single pass is over.
    pub(super) fn next(&mut self, count: u64, rng: &mut Rng) -> Option<u64> {
        match self {
            Self::Uniform => Some(rng.below(count)),
            Self::Zipf(zipf) => Some(zipf.sample(rng)),
            Self::Sequence { next, step, once } => {
                if *once && *next >= count {
                    return None;
                }
                let index = *next % count.max(1);
                *next += *step;
                Some(index)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Keys> {
        Keys::parse(&mut text.as_bytes())
    }

    fn all(keys: &Keys) -> Vec<(String, Option<String>)> {
        (0..keys.len())
            .map(|index| {
                let mut path = Vec::new();
                keys.write_path(index, &mut path);
                let target = keys.target(index).map(|t| String::from_utf8(t.to_vec()).unwrap());
                (String::from_utf8(path).unwrap(), target)
            })
            .collect()
    }

    #[test]
    fn every_file_form_gives_the_same_keys() {
        let expected = vec![
            ("/abc".to_owned(), Some("https://a.example/?q=1,2".to_owned())),
            ("/d-e".to_owned(), None),
        ];
        for text in [
            "abc,\"https://a.example/?q=1,2\"\nd-e\n",
            "abc\thttps://a.example/?q=1,2\nd-e\t\n",
            "target,code,title\n\"https://a.example/?q=1,2\",abc,x\n,d-e,y\n",
            "{\"code\":\"abc\",\"target\":\"https://a.example/?q=1,2\",\"at\":1}\n\n{\"code\":\"d-e\"}\n",
            "/abc,\"https://a.example/?q=1,2\"\r\n/d-e\r\n",
        ] {
            let keys = parse(text).unwrap();
            assert_eq!(all(&keys), expected, "{text:?}");
            assert!(keys.has_targets());
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line) in [
            ("abc\nd e\n", "line 2"),
            ("abc\n\"\",https://x\n", "line 2"),
            ("{\"code\":1}", "line 1"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn patterns_count_and_pad() {
        let keys = Keys::pattern("k{:04}x", "8..11").unwrap();
        let paths: Vec<_> = all(&keys).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["/k0008x", "/k0009x", "/k0010x"]);
        let plain = Keys::pattern("{}", "0..2").unwrap();
        assert_eq!(all(&plain)[1].0, "/1");
        assert_eq!(plain.target(0), None);
        for (pattern, range) in
            [("{:x}", "0..1"), ("{", "0..1"), ("{}", "1..1"), ("{}", "1"), ("a b{}", "0..1")]
        {
            assert!(Keys::pattern(pattern, range).is_err(), "{pattern} {range}");
        }
    }

    #[test]
    fn a_single_pass_over_all_threads_takes_every_key_once() {
        let mut seen = vec![0; 10];
        for thread in 0..3 {
            let mut order = Order::Sequence { next: thread, step: 3, once: true };
            while let Some(index) = order.next(10, &mut Rng::new(1)) {
                seen[index as usize] += 1;
            }
        }
        assert_eq!(seen, [1; 10]);
        let mut endless = Order::Sequence { next: 0, step: 1, once: false };
        let taken: Vec<_> = (0..4).filter_map(|_| endless.next(3, &mut Rng::new(1))).collect();
        assert_eq!(taken, [0, 1, 2, 0]);
    }

    #[test]
    fn numbers_are_written_in_full() {
        for (number, width, text) in [
            (0, 0, "0"),
            (7, 3, "007"),
            (u64::MAX, 0, "18446744073709551615"),
            (1, 30, "00000000000000000001"),
        ] {
            let mut out = Vec::new();
            write_number(number, width, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
