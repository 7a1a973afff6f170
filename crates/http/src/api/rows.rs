//! Cuts a streamed body into rows: the elements of one JSON array, or lines (NDJSON).
//!
//! Only as much of the body is held as the row under way needs, at most [`MAX_ROW`]. A row is cut
//! out by its brackets and quotes alone and judged later, so one bad row does not hide the rest.

use bytes::{Buf, Bytes, BytesMut};

/// The longest row, in bytes: a target of 8 KiB with every byte escaped (`\u0041`) is 48 KiB.
pub(crate) const MAX_ROW: usize = 64 * 1024;

/// What the rows are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One array.
    Array,
    /// One value a line; blank lines are skipped.
    Lines,
}

/// Why no further row can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// A row longer than [`MAX_ROW`].
    #[error("the row is longer than 65536 bytes")]
    TooLong,
    /// Something stands where the array should begin.
    #[error("the body must be a JSON array; for one row a line send application/x-ndjson")]
    NoArray,
    /// Something stands between two elements.
    #[error("a comma or the end of the array is missing here")]
    NoComma,
    /// A comma without an element behind it.
    #[error("an element of the array is missing here")]
    NoElement,
    /// Something follows the array.
    #[error("something follows the array; send one array")]
    Trailing,
    /// The body ended inside the array.
    #[error("the body ended before the array did")]
    Unfinished,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Line,
    Before,
    /// Before an element; whether the array may end here.
    Element {
        may_end: bool,
    },
    Inside {
        depth: usize,
        quoted: bool,
        escaped: bool,
    },
    After,
    End,
}

/// Finds rows in whatever pieces the body arrives.
#[derive(Debug)]
pub(crate) struct Rows {
    buffer: BytesMut,
    /// How far the row under way has been looked at.
    seen: usize,
    state: State,
}

impl Rows {
    pub(crate) fn new(layout: Layout) -> Self {
        let state = match layout {
            Layout::Array => State::Before,
            Layout::Lines => State::Line,
        };
        Self { buffer: BytesMut::new(), seen: 0, state }
    }

    /// More of the body. Take all rows out before more is added: that bounds the buffer.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next row, `None` until more of the body is there. `ended`: nothing more will come.
    pub(crate) fn next(&mut self, ended: bool) -> Result<Option<Bytes>, Broken> {
        loop {
            let found = match self.state {
                State::Line => self.line(ended)?,
                State::Inside { depth, quoted, escaped } => {
                    self.inside(depth, quoted, escaped, ended)?
                }
                _ => {
                    if !self.punctuation(ended)? {
                        return Ok(None);
                    }
                    continue;
                }
            };
            return match found {
                Some(row) if row.iter().all(u8::is_ascii_whitespace) => continue,
                other => Ok(other),
            };
        }
    }

    fn cut(&mut self, at: usize) -> Result<Bytes, Broken> {
        self.seen = 0;
        if at > MAX_ROW {
            return Err(Broken::TooLong);
        }
        Ok(self.buffer.split_to(at).freeze())
    }

    fn wait(&mut self) -> Result<Option<Bytes>, Broken> {
        self.seen = self.buffer.len();
        if self.seen > MAX_ROW { Err(Broken::TooLong) } else { Ok(None) }
    }

    fn line(&mut self, ended: bool) -> Result<Option<Bytes>, Broken> {
        let unseen = self.buffer.get(self.seen..).unwrap_or_default();
        if let Some(at) = unseen.iter().position(|byte| *byte == b'\n') {
            let row = self.cut(self.seen + at)?;
            self.buffer.advance(1);
            return Ok(Some(row));
        }
        if ended && !self.buffer.is_empty() {
            return self.cut(self.buffer.len()).map(Some);
        }
        self.wait()
    }

    /// Eats what stands between elements; `false` when more of the body is needed, or none is.
    fn punctuation(&mut self, ended: bool) -> Result<bool, Broken> {
        while self.buffer.first().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
            self.buffer.advance(1);
        }
        let Some(byte) = self.buffer.first().copied() else {
            return match (ended, self.state) {
                (false, _) | (true, State::End) => Ok(false),
                (true, State::Before) => Err(Broken::NoArray),
                (true, _) => Err(Broken::Unfinished),
            };
        };
        let next = match (self.state, byte) {
            (State::Before, b'[') => State::Element { may_end: true },
            (State::Before, _) => return Err(Broken::NoArray),
            (State::Element { may_end: true } | State::After, b']') => State::End,
            (State::Element { .. }, b',' | b']' | b'}') => return Err(Broken::NoElement),
            (State::Element { .. }, _) => {
                self.state = State::Inside { depth: 0, quoted: false, escaped: false };
                return Ok(true);
            }
            (State::After, b',') => State::Element { may_end: false },
            (State::After, _) => return Err(Broken::NoComma),
            (State::End | State::Line | State::Inside { .. }, _) => return Err(Broken::Trailing),
        };
        self.state = next;
        self.buffer.advance(1);
        Ok(true)
    }

    fn inside(
        &mut self,
        mut depth: usize,
        mut quoted: bool,
        mut escaped: bool,
        ended: bool,
    ) -> Result<Option<Bytes>, Broken> {
        let unseen = self.buffer.get(self.seen..).unwrap_or_default();
        for (at, byte) in unseen.iter().enumerate() {
            // Where the element ends: behind this byte, or before it.
            let mut end = None;
            if quoted {
                if escaped {
                    escaped = false;
                } else if *byte == b'\\' {
                    escaped = true;
                } else if *byte == b'"' {
                    quoted = false;
                    end = (depth == 0).then_some(at + 1);
                }
            } else {
                match byte {
                    b'"' => quoted = true,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' if depth > 0 => {
                        depth -= 1;
                        end = (depth == 0).then_some(at + 1);
                    }
                    b',' | b']' | b'}' if depth == 0 => end = Some(at),
                    _ => {}
                }
            }
            if let Some(end) = end {
                let row = self.cut(self.seen + end)?;
                self.state = State::After;
                return Ok(Some(row));
            }
        }
        self.state = State::Inside { depth, quoted, escaped };
        if ended { Err(Broken::Unfinished) } else { self.wait() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(layout: Layout, pieces: &[&[u8]]) -> (Vec<String>, Option<Broken>) {
        let mut rows = Rows::new(layout);
        let mut found = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            rows.push(piece);
            let ended = at + 1 == pieces.len();
            loop {
                match rows.next(ended) {
                    Ok(Some(row)) => found.push(String::from_utf8_lossy(&row).into_owned()),
                    Ok(None) => break,
                    Err(broken) => return (found, Some(broken)),
                }
            }
        }
        (found, None)
    }

    fn whole(layout: Layout, text: &str) -> (Vec<String>, Option<Broken>) {
        cut(layout, &[text.as_bytes()])
    }

    #[test]
    fn arrays_are_cut_at_their_commas() {
        let rows = |text: &str| whole(Layout::Array, text);
        assert_eq!(rows("[]"), (vec![], None));
        assert_eq!(rows(" [ ] \n"), (vec![], None));
        let body = r#"[{"a":"],\"}"}, [1,[2]] ,"x,]",5 ,null]"#;
        let found = [r#"{"a":"],\"}"}"#, "[1,[2]]", r#""x,]""#, "5 ", "null"];
        assert_eq!(rows(body), (found.map(str::to_owned).to_vec(), None));
        for (bad, broken) in [
            ("", Broken::NoArray),
            ("{}", Broken::NoArray),
            ("[", Broken::Unfinished),
            ("[1", Broken::Unfinished),
            ("[1,", Broken::Unfinished),
            ("[1,]", Broken::NoElement),
            ("[,1]", Broken::NoElement),
            ("[{}{}]", Broken::NoComma),
            ("[{}]x", Broken::Trailing),
            ("[{}][]", Broken::Trailing),
            ("[\"a]", Broken::Unfinished),
            ("[{]", Broken::Unfinished),
        ] {
            assert_eq!(rows(bad).1, Some(broken), "{bad}");
        }
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_blank_ones_skipped() {
        let (rows, broken) = whole(Layout::Lines, "{}\r\n\n  \n{\"a\":1}\n[");
        assert_eq!(rows, ["{}\r", "{\"a\":1}", "["]);
        assert_eq!(broken, None);
        assert_eq!(whole(Layout::Lines, ""), (vec![], None));
    }

    #[test]
    fn rows_are_bounded() {
        let long = "x".repeat(MAX_ROW + 1);
        assert_eq!(whole(Layout::Lines, &long).1, Some(Broken::TooLong));
        assert_eq!(whole(Layout::Lines, &format!("{long}\n")).1, Some(Broken::TooLong));
        assert_eq!(whole(Layout::Array, &format!("[\"{long}\"]")).1, Some(Broken::TooLong));
        let fits = "x".repeat(MAX_ROW);
        assert_eq!(whole(Layout::Lines, &format!("{fits}\n{fits}")).0.len(), 2);
    }

    proptest! {
        #[test]
        fn however_it_arrives_the_rows_are_the_same(
            text in r#"[\[\]{}",\\ a1\n]{0,60}"#,
            cuts in proptest::collection::vec(0_usize..60, 0..6),
            lines: bool,
        ) {
            let layout = if lines { Layout::Lines } else { Layout::Array };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for at in cuts {
                pieces.push(&text.as_bytes()[from..at]);
                from = at;
            }
            pieces.push(&text.as_bytes()[from..]);
            prop_assert_eq!(cut(layout, &pieces), whole(layout, &text));
        }

        #[test]
        fn every_real_array_is_cut_into_its_elements(
            values in proptest::collection::vec(
                proptest::collection::hash_map("[a-z\"\\\\,\\]]{0,5}", "[a-z\"\\\\{}]{0,8}", 0..3),
                0..8,
            ),
        ) {
            let text = serde_json::to_string(&values).unwrap();
            let (rows, broken) = whole(Layout::Array, &text);
            prop_assert_eq!(broken, None);
            prop_assert_eq!(rows.len(), values.len());
            for (row, value) in rows.iter().zip(&values) {
                let back: std::collections::HashMap<String, String> =
                    serde_json::from_str(row).unwrap();
                prop_assert_eq!(&back, value);
            }
        }
    }
}
