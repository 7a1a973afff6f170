//! Reads an import file row by row and cuts it into chunks of one request each.

use std::io::{BufRead, Read};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::columns::Header;

/// Rows of one chunk: what the server takes in one transaction.
pub(crate) const CHUNK_ROWS: usize = 1_000;

/// Bytes of one chunk; the server's own bound is 1 MiB.
const CHUNK_BYTES: usize = 900 << 10;

/// The longest row, in bytes: what the server takes.
const MAX_ROW: usize = 64 << 10;

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Ndjson,
}

/// Where a row stands: the how manieth row it is, a header not counted, and the line it begins on;
/// both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Which row.
    pub(crate) row: u64,
    /// On which line it begins.
    pub(crate) line: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.row == self.line {
            write!(f, "row {}", self.row)
        } else {
            write!(f, "row {} (line {})", self.row, self.line)
        }
    }
}

/// A row that never went to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Where it stands.
    pub(crate) place: Place,
    /// What is wrong with it.
    pub(crate) why: String,
}

/// Rows of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// The rows, one JSON object a line.
    pub(crate) body: Vec<u8>,
    /// Where each of them stands.
    pub(crate) places: Vec<Place>,
    /// Rows that are refused without asking.
    pub(crate) refused: Vec<Refused>,
    /// Whether some row has no code: then repeating it would make another link.
    pub(crate) codeless: bool,
    /// Bytes of the file read so far.
    pub(crate) position: u64,
    /// Rows of the chunks before.
    pub(crate) before: u64,
}

impl Chunk {
    /// Rows read, refused ones included.
    pub(crate) fn rows(&self) -> u64 {
        (self.places.len() + self.refused.len()) as u64
    }

    fn is_full(&self) -> bool {
        self.rows() >= CHUNK_ROWS as u64 || self.body.len() >= CHUNK_BYTES
    }

    fn place(&self, line: u64) -> Place {
        Place { row: self.before + self.rows() + 1, line }
    }

    fn push(&mut self, line: u64, row: &[u8], has_code: bool) {
        if row.len() > MAX_ROW {
            self.refuse(line, format!("the row is longer than {MAX_ROW} bytes"));
            return;
        }
        self.body.extend_from_slice(row);
        self.body.push(b'\n');
        self.places.push(self.place(line));
        self.codeless |= !has_code;
    }

    fn refuse(&mut self, line: u64, why: String) {
        let place = self.place(line);
        self.refused.push(Refused { place, why });
    }
}

/// The rows of a file.
pub(crate) struct Rows {
    source: Source,
    /// Rows read.
    count: u64,
}

enum Source {
    Csv {
        reader: Box<csv::Reader<Box<dyn Read + Send>>>,
        /// What its columns mean.
        header: Header,
        /// The first record, where it is no header.
        first: Option<csv::StringRecord>,
    },
    Ndjson {
        reader: Box<dyn BufRead + Send>,
        /// The line read last.
        line: u64,
        /// Bytes read.
        position: u64,
    },
}

impl Rows {
    /// Opens a file whose format may be left to its first bytes.
    ///
    /// # Errors
    /// A header without a target.
    pub(crate) fn open(
        mut input: Box<dyn BufRead + Send>,
        format: Option<Format>,
    ) -> anyhow::Result<Self> {
        let format = match format {
            Some(format) => format,
            None => sniff(input.fill_buf()?),
        };
        let source = match format {
            Format::Ndjson => Source::Ndjson { reader: input, line: 0, position: 0 },
            Format::Csv => {
                let input: Box<dyn Read + Send> = input;
                let mut reader =
                    csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input);
                let mut first = csv::StringRecord::new();
                let (header, first) = if !reader.read_record(&mut first)? {
                    (Header::plain(), None)
                } else if first.len() == 1 && first.get(0).is_some_and(|c| c.contains("://")) {
                    // A bare list of addresses has no header.
                    (Header::plain(), Some(first))
                } else {
                    let header = Header::of(first.iter()).map_err(|why| {
                        crate::cli::exit::Failure::error(crate::cli::exit::Code::Data, why)
                    })?;
                    (header, None)
                };
                Source::Csv { reader: Box::new(reader), header, first }
            }
        };
        Ok(Self { source, count: 0 })
    }

    /// Columns that are not read.
    pub(crate) fn ignored(&self) -> &[String] {
        match &self.source {
            Source::Csv { header, .. } => &header.ignored,
            Source::Ndjson { .. } => &[],
        }
    }

    /// The next chunk; `None` at the end. Where chunks begin depends on the file alone.
    ///
    /// # Errors
    /// Only when the file can't be read any further.
    pub(crate) fn chunk(&mut self) -> std::io::Result<Option<Chunk>> {
        let mut chunk = Chunk { before: self.count, ..Chunk::default() };
        while !chunk.is_full() {
            let more = match &mut self.source {
                Source::Csv { reader, header, first } => {
                    csv_row(reader, header, first.take(), &mut chunk)?
                }
                Source::Ndjson { reader, line, position } => {
                    ndjson_row(reader, line, position, &mut chunk)?
                }
            };
            if !more {
                break;
            }
        }
        self.count += chunk.rows();
        Ok((chunk.rows() > 0).then_some(chunk))
    }
}

/// Objects begin with a brace; everything else is CSV.
fn sniff(head: &[u8]) -> Format {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    match head.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Format::Ndjson,
        _ => Format::Csv,
    }
}

fn csv_row(
    reader: &mut csv::Reader<Box<dyn Read + Send>>,
    header: &Header,
    first: Option<csv::StringRecord>,
    chunk: &mut Chunk,
) -> std::io::Result<bool> {
    let record = match first {
        Some(first) => first,
        None => {
            let mut record = csv::StringRecord::new();
            let before = reader.position().line();
            match reader.read_record(&mut record) {
                Ok(true) => record,
                Ok(false) => return Ok(false),
                Err(error) => {
                    return match error.into_kind() {
                        csv::ErrorKind::Io(error) => Err(error),
                        csv::ErrorKind::Utf8 { pos, .. } => {
                            let line = pos.map_or(before, |pos| pos.line());
                            chunk.refuse(line, "the row is no UTF-8".to_owned());
                            Ok(true)
                        }
                        _ => {
                            chunk.refuse(before, "the row is no CSV".to_owned());
                            Ok(true)
                        }
                    };
                }
            }
        }
    };
    let line = record.position().map_or(1, csv::Position::line);
    chunk.position = reader.position().byte();
    if record.len() > header.len() {
        let why = format!(
            "the row has {} cells, the header {}; put cells with commas in quotes",
            record.len(),
            header.len()
        );
        chunk.refuse(line, why);
        return Ok(true);
    }
    let row = header.row(record.iter());
    let has_code = row.contains_key("code");
    match serde_json::to_vec(&row) {
        Ok(row) => chunk.push(line, &row, has_code),
        Err(error) => chunk.refuse(line, error.to_string()),
    }
    Ok(true)
}

/// The one field that is looked at here; the server judges the rest.
#[derive(Deserialize)]
struct Peek {
    #[serde(default)]
    code: Option<IgnoredAny>,
}

fn ndjson_row(
    reader: &mut Box<dyn BufRead + Send>,
    line: &mut u64,
    position: &mut u64,
    chunk: &mut Chunk,
) -> std::io::Result<bool> {
    let mut row = Vec::new();
    // Bounded: a line without end is cut and refused, and what follows it skipped.
    let count = reader.take(MAX_ROW as u64 + 2).read_until(b'\n', &mut row)?;
    if count == 0 {
        return Ok(false);
    }
    *line += 1;
    *position += count as u64;
    if !row.ends_with(b"\n") && count > MAX_ROW {
        *position += reader.skip_until(b'\n')? as u64;
    }
    chunk.position = *position;
    let mut text = row.trim_ascii();
    if *line == 1 {
        text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    }
    if !text.is_empty() {
        let has_code = serde_json::from_slice::<Peek>(text).is_ok_and(|peek| peek.code.is_some());
        chunk.push(*line, text, has_code);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8], format: Option<Format>) -> Rows {
        let input = std::io::Cursor::new(text.to_vec());
        Rows::open(Box::new(std::io::BufReader::new(input)), format).unwrap()
    }

    fn all(text: &[u8]) -> Vec<Chunk> {
        let mut rows = rows(text, None);
        std::iter::from_fn(|| rows.chunk().unwrap()).collect()
    }

    fn places(chunk: &Chunk) -> Vec<(u64, u64)> {
        chunk.places.iter().map(|place| (place.row, place.line)).collect()
    }

    fn bodies(chunks: &[Chunk]) -> String {
        chunks.iter().map(|chunk| String::from_utf8(chunk.body.clone()).unwrap()).collect()
    }

    #[test]
    fn formats_are_recognised() {
        assert_eq!(bodies(&all(b"url\nhttps://a/\n")), "{\"target\":\"https://a/\"}\n");
        assert_eq!(bodies(&all(b"https://a/\nhttps://b/")).lines().count(), 2, "a bare list");
        assert_eq!(bodies(&all(b" \n{\"target\":\"x\"}\n\n")), "{\"target\":\"x\"}\n");
        assert_eq!(bodies(&all(b"\xef\xbb\xbf{\"a\":1}")), "{\"a\":1}\n");
        assert!(all(b"").is_empty());
        assert!(all(b"url\n").is_empty());
        let input = std::io::Cursor::new(b"a,b\n1,2\n".to_vec());
        assert!(Rows::open(Box::new(std::io::BufReader::new(input)), None).is_err());
    }

    #[test]
    fn lines_are_counted_as_an_editor_does() {
        let text = b"code,target,title\na,https://a/,\"two\nlines\"\nb,https://b/,x\n\xff,c,d\n";
        let chunks = all(text);
        assert_eq!(places(&chunks[0]), [(1, 2), (2, 4)]);
        let place = Place { row: 3, line: 5 };
        assert_eq!(chunks[0].refused, [Refused { place, why: "the row is no UTF-8".into() }]);
        assert_eq!(place.to_string(), "row 3 (line 5)");
        assert!(!chunks[0].codeless);
        let chunks = all(b"{\"code\":\"a\"}\n\n{\"target\":\"x\"}\nnonsense\n");
        assert_eq!(places(&chunks[0]), [(1, 1), (2, 3), (3, 4)]);
        assert!(chunks[0].codeless);
    }

    #[test]
    fn rows_with_more_cells_than_the_header_are_refused() {
        let chunks = all(b"url,title\nhttps://a/\nhttps://b/?a,b,c\n");
        assert_eq!(places(&chunks[0]), [(1, 2)]);
        assert_eq!(chunks[0].refused[0].place, Place { row: 2, line: 3 });
        assert!(chunks[0].refused[0].why.contains("3 cells"));
    }

    #[test]
    fn chunks_are_bounded_in_rows_and_bytes() {
        let mut text = b"url\n".to_vec();
        for n in 0..2_500 {
            text.extend_from_slice(format!("https://example.com/{n}\n").as_bytes());
        }
        let sizes: Vec<u64> = all(&text).iter().map(Chunk::rows).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        assert_eq!(all(&text)[2].places[0], Place { row: 2_001, line: 2_002 });
        let long = format!("https://example.com/{}\n", "x".repeat(8_000)).repeat(300);
        let chunks = all(format!("url\n{long}").as_bytes());
        assert!(chunks.iter().all(|chunk| chunk.body.len() < 1 << 20));
        assert_eq!(chunks.iter().map(Chunk::rows).sum::<u64>(), 300);
    }

    #[test]
    fn endless_lines_are_refused_and_the_next_one_is_read() {
        let text = format!("{{\"a\":\"{}\"}}\n{{\"code\":\"b\"}}\n", "x".repeat(200_000));
        let chunks = all(text.as_bytes());
        assert_eq!(chunks[0].refused.len(), 1);
        assert_eq!(bodies(&chunks), "{\"code\":\"b\"}\n");
        assert_eq!(chunks[0].position, text.len() as u64);
    }
}
