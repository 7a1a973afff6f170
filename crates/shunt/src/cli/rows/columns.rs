//! What the columns of a CSV file mean, and rows as JSON and back.
//!
//! Headers are compared without case, and with blanks and hyphens as underscores. Besides our own
//! names those of other shorteners' exports are known, so that their files can be taken in as they
//! are.

use serde_json::{Map, Value};

use super::guard::{guarded, unguarded};

/// What kind of JSON value a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Boolean,
    /// Comma-separated.
    Tags,
}

struct Column {
    /// The field of the API.
    field: &'static str,
    kind: Kind,
    /// Other headers for it.
    aliases: &'static [&'static str],
    /// Only known to rows of an export, which have a `version`.
    export_only: bool,
}

const fn column(
    field: &'static str,
    kind: Kind,
    aliases: &'static [&'static str],
    export_only: bool,
) -> Column {
    Column { field, kind, aliases, export_only }
}

/// All columns, in the order of an export.
const COLUMNS: &[Column] = &[
    column(
        "code",
        Kind::Text,
        &[
            "slug",
            "short",
            "short_code",
            "shortcode",
            "keyword",
            "alias",
            "back_half",
            "redirect_id",
        ],
        false,
    ),
    column("domain", Kind::Text, &["host", "short_domain"], false),
    column(
        "target",
        Kind::Text,
        &[
            "url",
            "long_url",
            "longurl",
            "destination",
            "destination_url",
            "original_url",
            "target_url",
            "full_url",
            "link",
        ],
        false,
    ),
    column("title", Kind::Text, &["name"], false),
    column("tags", Kind::Tags, &["tag"], false),
    column("status_code", Kind::Number, &["redirect_status", "redirect_type"], false),
    column("forward_query", Kind::Boolean, &[], false),
    column("enabled", Kind::Boolean, &[], false),
    column("valid_from", Kind::Text, &["valid_since", "starts_at"], false),
    column("expires_at", Kind::Text, &["valid_until", "expires", "expiry", "expiration"], false),
    column("max_clicks", Kind::Number, &["max_visits", "click_limit"], false),
    column("owner", Kind::Number, &[], false),
    column("used", Kind::Number, &[], true),
    column("version", Kind::Number, &[], true),
    column("created_at", Kind::Text, &[], true),
    column("updated_at", Kind::Text, &[], true),
    column("deleted_at", Kind::Text, &[], true),
];

/// Follows from the rest of an export's row: for readers, not for import.
const DERIVED: [&str; 2] = ["short_url", "mixed_script"];

/// What a tombstone of an export has.
const OF_TOMBSTONES: [&str; 6] = ["code", "domain", "owner", "version", "created_at", "deleted_at"];

fn normalised(header: &str) -> String {
    header.trim().trim_start_matches('\u{feff}').to_lowercase().replace([' ', '-'], "_")
}

/// The columns of one file.
pub(crate) struct Header {
    columns: Vec<Option<&'static Column>>,
    /// Headers that mean nothing here, or nothing without a version: said once, not read.
    pub(crate) ignored: Vec<String>,
}

impl Header {
    /// What these headers mean.
    ///
    /// # Errors
    /// Without a column for the target, or with two columns of one meaning.
    pub(crate) fn of<'a>(headers: impl Iterator<Item = &'a str> + Clone) -> Result<Self, String> {
        let is_export = headers.clone().any(|header| normalised(header) == "version");
        let mut columns: Vec<Option<&'static Column>> = Vec::new();
        let mut ignored = Vec::new();
        for header in headers {
            let name = normalised(header);
            // Our own name first: `link` next to `target` is no second target.
            let column = COLUMNS
                .iter()
                .find(|column| column.field == name)
                .or_else(|| COLUMNS.iter().find(|column| column.aliases.contains(&name.as_str())))
                .filter(|column| is_export || !column.export_only);
            if let Some(column) = column
                && columns.iter().flatten().any(|earlier| earlier.field == column.field)
            {
                return Err(format!(
                    "two columns mean the {}, one of them is {header:?}; remove one",
                    column.field
                ));
            }
            if column.is_none() && !DERIVED.contains(&name.as_str()) {
                ignored.push(header.trim().to_owned());
            }
            columns.push(column);
        }
        if columns.iter().flatten().any(|column| column.field == "target") {
            Ok(Self { columns, ignored })
        } else {
            Err("no column is called target, url, long_url or destination; name one of them so"
                .to_owned())
        }
    }

    /// A file without a header: one target a row.
    pub(crate) fn plain() -> Self {
        let columns = vec![COLUMNS.iter().find(|column| column.field == "target")];
        Self { columns, ignored: Vec::new() }
    }

    /// How many columns there are, unknown ones included.
    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    /// A row as JSON: empty cells are left out. Cells that are no number where one must be go on
    /// as text, so that the server says what is wrong with them.
    pub(crate) fn row<'a>(&self, cells: impl Iterator<Item = &'a str>) -> Map<String, Value> {
        let mut row = Map::new();
        for (cell, column) in cells.zip(&self.columns) {
            let Some(column) = column else { continue };
            let cell = unguarded(cell);
            if cell.is_empty() {
                continue;
            }
            let text = || Value::from(cell);
            let value = match column.kind {
                Kind::Text => text(),
                Kind::Number => cell.parse::<u64>().map_or_else(|_| text(), Value::from),
                Kind::Boolean => match cell.to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" => true.into(),
                    "false" | "0" | "no" => false.into(),
                    _ => text(),
                },
                Kind::Tags => cell.split(',').map(|tag| Value::from(tag.trim())).collect(),
            };
            row.insert(column.field.to_owned(), value);
        }
        if row.contains_key("deleted_at") {
            row.retain(|field, _| OF_TOMBSTONES.contains(&field.as_str()));
        }
        row
    }
}

/// The header of an export.
pub(crate) fn export_header() -> Vec<&'static str> {
    COLUMNS.iter().map(|column| column.field).chain(["short_url"]).collect()
}

/// A row of an export as cells.
pub(crate) fn export_cells(row: &Value) -> Vec<String> {
    export_header()
        .into_iter()
        .map(|field| match row.get(field) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => guarded(text).into_owned(),
            Some(Value::Array(tags)) => {
                let tags: Vec<&str> = tags.iter().filter_map(Value::as_str).collect();
                guarded(&tags.join(",")).into_owned()
            }
            Some(other) => other.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn header(text: &str) -> Result<Header, String> {
        Header::of(text.split(','))
    }

    #[test]
    fn foreign_headers_are_understood() {
        for (text, cells, expected) in [
            ("url", vec!["https://a/"], json!({"target": "https://a/"})),
            (
                "Long URL,Keyword,Clicks",
                vec!["https://a/", "k", "7"],
                json!({"target": "https://a/", "code": "k"}),
            ),
            (
                "\u{feff}slug,destination,expires-at,enabled,max_visits",
                vec!["s", "https://a/", "", "No", "5"],
                json!({"code": "s", "target": "https://a/", "enabled": false, "max_clicks": 5}),
            ),
            (
                "target,tags,status_code",
                vec!["https://a/", "a, b", "soon"],
                json!({"target": "https://a/", "tags": ["a", "b"], "status_code": "soon"}),
            ),
        ] {
            let header = header(text).unwrap();
            assert_eq!(Value::Object(header.row(cells.into_iter())), expected, "{text}");
        }
        assert_eq!(header("url,clicks,created_at").unwrap().ignored, ["clicks", "created_at"]);
        assert!(header("code,title").is_err());
        assert!(header("url,target").err().unwrap().contains("two columns"));
    }

    fn text() -> impl Strategy<Value = String> {
        "[=+@'\t\"\n,; a-zä-]{1,12}"
    }

    proptest! {
        /// What an export writes is what an import reads, byte for byte.
        #[test]
        fn exports_round_trip(
            code in "[0-9A-Za-z_-]{1,12}",
            target in "https://[a-z]{1,9}/[!-~]{0,30}",
            title in proptest::option::of(text()),
            tags in proptest::collection::vec("[=+@'a-z-][a-z ]{0,5}[a-z]", 0..4),
            domain in proptest::option::of("[a-z]{1,9}\\.example"),
            clicks in proptest::option::of(1_u64..1_000),
            deleted in any::<bool>(),
        ) {
            let mut row = if deleted {
                json!({
                    "code": code, "owner": 0, "version": 2,
                    "created_at": "2026-01-01T00:00:00Z", "deleted_at": "2026-01-02T00:00:00Z",
                })
            } else {
                json!({
                    "code": code, "target": target, "owner": 3, "version": 1, "used": 0,
                    "status_code": 302, "forward_query": false, "enabled": true,
                    "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
                })
            };
            let fields = row.as_object_mut().unwrap();
            if let Some(domain) = domain {
                fields.insert("domain".into(), domain.into());
            }
            if !deleted {
                if let Some(title) = title {
                    fields.insert("title".into(), title.into());
                }
                if !tags.is_empty() {
                    fields.insert("tags".into(), tags.into());
                }
                if let Some(clicks) = clicks {
                    fields.insert("max_clicks".into(), clicks.into());
                }
            }
            let mut written = fields.clone();
            written.insert("short_url".into(), "http://x/y".into());
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(export_header()).unwrap();
            writer.write_record(export_cells(&Value::Object(written))).unwrap();
            let file = writer.into_inner().unwrap();
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&file[..]);
            let mut records = reader.records().map(Result::unwrap);
            let header = records.next().unwrap();
            let header = Header::of(header.iter()).unwrap();
            prop_assert!(header.ignored.is_empty());
            let record = records.next().unwrap();
            prop_assert_eq!(Value::Object(header.row(record.iter())), row);
        }
    }
}
