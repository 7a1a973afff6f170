//! Statements over tables of another service: built once, from names that the settings give.
//!
//! Every name is quoted as an identifier; nothing else of the settings gets into a text. They are
//! not in the registry of statements, which has those over our own tables: nobody knows how
//! these tables are laid out.

/// The longest name that PostgreSQL keeps whole, in bytes.
const MAX_NAME: usize = 63;

/// What the other service calls its tables and columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyNames {
    /// The table of links, `table` or `schema.table`.
    pub table: String,
    /// The column with the code.
    pub code: String,
    /// The column with the target.
    pub target: String,
    /// The column with the time of creation (`timestamptz`, `timestamp` in UTC, or `date`).
    pub created: Option<String>,
    /// The column that says whose a link is.
    pub owner: Option<String>,
    /// The table of keys generated in advance, whose codes stand in a column of the same name.
    pub keys: Option<LegacyKeys>,
}

/// A table of keys generated in advance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyKeys {
    /// The table, `table` or `schema.table`.
    pub table: String,
    /// The boolean column that says whether a key is used.
    pub used: String,
}

/// The statements, made of [`LegacyNames`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Texts {
    /// One link by its code.
    pub(super) get: String,
    /// A page of links from the first code on, and from behind a code.
    pub(super) pages: Pages,
    /// How many rows there are.
    pub(super) count: String,
    /// Pages of unused keys.
    pub(super) keys: Option<Pages>,
}

/// A page from the start (limit), and from behind a code (code, limit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) first: String,
    pub(super) next: String,
}

/// A name as an identifier.
///
/// # Errors
/// What is wrong with it.
fn quoted(name: &str) -> Result<String, String> {
    if name.is_empty() {
        return Err("a name is empty".to_owned());
    }
    if name.len() > MAX_NAME {
        return Err(format!("{name:?} is longer than the {MAX_NAME} bytes that a name can have"));
    }
    if name.contains('\0') {
        return Err(format!("{name:?} holds a zero byte"));
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// `table` or `schema.table` as identifiers.
fn quoted_table(name: &str) -> Result<String, String> {
    let parts: Vec<String> = name.split('.').map(quoted).collect::<Result<_, _>>()?;
    match parts.len() {
        1 | 2 => Ok(parts.join(".")),
        _ => Err(format!("{name:?} has too many parts; write table or schema.table")),
    }
}

impl Pages {
    fn new(columns: &str, table: &str, code: &str, only: Option<&str>) -> Self {
        let and = only.map_or_else(String::new, |only| format!(" AND {only}"));
        let select = format!("SELECT {columns} FROM {table} WHERE");
        Self {
            first: format!("{select} {code} IS NOT NULL{and} ORDER BY {code} LIMIT $1"),
            next: format!("{select} {code} > $1{and} ORDER BY {code} LIMIT $2"),
        }
    }
}

impl LegacyNames {
    /// The statements.
    ///
    /// # Errors
    /// Which name can't be one.
    pub(super) fn texts(&self) -> Result<Texts, String> {
        let (table, code, target) =
            (quoted_table(&self.table)?, quoted(&self.code)?, quoted(&self.target)?);
        let optional = |name: &Option<String>| name.as_deref().map(quoted).transpose();
        let created = optional(&self.created)?.map_or_else(
            || "NULL::bigint".to_owned(),
            // Right for both kinds of timestamps: one without a zone is taken for UTC.
            |name| {
                format!(
                    "CASE WHEN isfinite({name}) THEN \
                     floor(extract(epoch FROM {name}) * 1000)::bigint END"
                )
            },
        );
        let owner = optional(&self.owner)?
            .map_or_else(|| "NULL::text".to_owned(), |name| format!("{name}::text"));
        let columns = format!("{code}::text, {target}::text, {created}, {owner}");
        let keys = self.keys.as_ref().map(|keys| {
            let (table, unused) = (quoted_table(&keys.table)?, quoted(&keys.used)?);
            let unused = format!("NOT {unused}");
            Ok::<_, String>(Pages::new(&format!("{code}::text"), &table, &code, Some(&unused)))
        });
        Ok(Texts {
            get: format!("SELECT {columns} FROM {table} WHERE {code} = $1 LIMIT 1"),
            pages: Pages::new(&columns, &table, &code, None),
            count: format!("SELECT count(*) FROM {table}"),
            keys: keys.transpose()?,
        })
    }

    /// Whether every name can be one.
    ///
    /// # Errors
    /// Which one can't, and why.
    pub fn check(&self) -> Result<(), String> {
        self.texts().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> LegacyNames {
        LegacyNames {
            table: "urls".to_owned(),
            code: "short_url_id".to_owned(),
            target: "long_url".to_owned(),
            ..LegacyNames::default()
        }
    }

    #[test]
    fn names_become_identifiers_and_nothing_else() {
        let texts = names().texts().unwrap();
        assert_eq!(
            texts.get,
            "SELECT \"short_url_id\"::text, \"long_url\"::text, NULL::bigint, NULL::text \
             FROM \"urls\" WHERE \"short_url_id\" = $1 LIMIT 1"
        );
        assert_eq!(texts.keys, None);

        let odd = LegacyNames {
            table: "Old Stuff.u\"; DROP TABLE x; --".to_owned(),
            created: Some("at".to_owned()),
            owner: Some("user".to_owned()),
            keys: Some(LegacyKeys { table: "keys".to_owned(), used: "us\"ed".to_owned() }),
            ..names()
        };
        let texts = odd.texts().unwrap();
        assert!(
            texts.get.contains("FROM \"Old Stuff\".\"u\"\"; DROP TABLE x; --\" WHERE"),
            "{}",
            texts.get
        );
        assert!(texts.get.contains("extract(epoch FROM \"at\")"), "{}", texts.get);
        assert!(texts.get.contains("\"user\"::text"), "{}", texts.get);
        let keys = texts.keys.unwrap();
        assert_eq!(
            keys.next,
            "SELECT \"short_url_id\"::text FROM \"keys\" WHERE \"short_url_id\" > $1 \
             AND NOT \"us\"\"ed\" ORDER BY \"short_url_id\" LIMIT $2"
        );
        assert!(keys.first.contains("IS NOT NULL AND NOT \"us\"\"ed\""), "{}", keys.first);
    }

    #[test]
    fn what_can_be_no_name_is_said() {
        for (table, words) in [
            ("", "empty"),
            ("a.b.c", "too many"),
            (".urls", "empty"),
            ("a\0b", "zero"),
            (&"x".repeat(64), "longer"),
        ] {
            let names = LegacyNames { table: table.to_owned(), ..names() };
            let said = names.check().unwrap_err();
            assert!(said.contains(words), "{table:?}: {said}");
        }
    }
}
