//! Strict JSON: what two parsers could read in two ways is refused, and every error names its
//! field.
//!
//! Refused beside what `serde_json` refuses (invalid UTF-8, trailing text, `NaN`, lone surrogates,
//! numbers out of range): the same name twice in one object, and nesting deeper than
//! [`MAX_DEPTH`].

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use shunt_domain::Timestamp;
use shunt_engine::links::{FieldError, MAX_CLICKS};

use super::time;

/// How deep values may be nested. The API needs two levels.
pub(crate) const MAX_DEPTH: usize = 16;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads exactly one value.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, FieldError> {
        let depth = Cell::new(0);
        let mut parser = serde_json::Deserializer::from_slice(bytes);
        let value = Seed(&depth).deserialize(&mut parser).map_err(syntax)?;
        parser.end().map_err(syntax)?;
        Ok(value)
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Unsigned(_) | Self::Signed(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function value")]
fn syntax(error: serde_json::Error) -> FieldError {
    FieldError::new("body", "bad-json", format!("this is not the JSON it should be: {error}"))
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a Cell<usize>);

impl Seed<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<(), E> {
        self.0.set(self.0.get() + 1);
        if self.0.get() > MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Signed(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        self.deeper()?;
        let mut list = Vec::new();
        while let Some(value) = access.next_element_seed(self)? {
            list.push(value);
        }
        self.0.set(self.0.get() - 1);
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json, A::Error> {
        self.deeper()?;
        let mut entries: Vec<(String, Json)> = Vec::new();
        // Bounds the quadratic search for duplicates; no object of the API has half as many.
        const MAX_NAMES: usize = 64;
        while let Some(name) = access.next_key::<String>()? {
            let twice = entries.iter().any(|(there, _)| *there == name);
            if twice || entries.len() >= MAX_NAMES {
                let what = if twice { "the same name twice" } else { "too many names" };
                return Err(serde::de::Error::custom(format!("{what} in an object: {name:?}")));
            }
            let value = access.next_value_seed(self)?;
            entries.push((name, value));
        }
        self.0.set(self.0.get() - 1);
        Ok(Json::Object(entries))
    }
}

/// The fields of an object, taken one by one; what is left at the end is unknown.
pub(crate) struct Fields(Vec<(String, Json)>);

type Read<T> = Result<T, FieldError>;

fn wrong_type(field: impl Into<String>, wanted: &str, got: &Json) -> FieldError {
    FieldError::new(field, "wrong-type", format!("this must be {wanted}, not {}", got.kind()))
}

fn missing(field: &str) -> FieldError {
    FieldError::new(field, "missing-field", format!("the field {field} is required"))
}

impl Fields {
    /// Reads an object.
    pub(crate) fn parse(bytes: &[u8]) -> Read<Self> {
        Self::of(Json::parse(bytes)?)
    }

    /// The fields of a value that must be an object.
    pub(crate) fn of(json: Json) -> Read<Self> {
        match json {
            Json::Object(entries) => Ok(Self(entries)),
            other => Err(wrong_type("body", "an object", &other)),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(there, _)| there == name)
    }

    fn take(&mut self, name: &str) -> Option<Json> {
        let at = self.0.iter().position(|(there, _)| there == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// `None`: absent. `Some(None)`: null.
    fn nullable<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str, Json) -> Read<T>,
    ) -> Read<Option<Option<T>>> {
        match self.take(name) {
            None => Ok(None),
            Some(Json::Null) => Ok(Some(None)),
            Some(value) => read(name, value).map(|value| Some(Some(value))),
        }
    }

    pub(crate) fn text(&mut self, name: &str) -> Read<Option<Option<String>>> {
        self.nullable(name, text)
    }

    pub(crate) fn required_text(&mut self, name: &str) -> Read<String> {
        text(name, self.take(name).ok_or_else(|| missing(name))?)
    }

    /// A text that is absent or given, but not null.
    pub(crate) fn plain_text(&mut self, name: &str) -> Read<Option<String>> {
        self.take(name).map(|value| text(name, value)).transpose()
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Read<Option<Option<bool>>> {
        self.nullable(name, boolean)
    }

    pub(crate) fn plain_boolean(&mut self, name: &str) -> Read<Option<bool>> {
        self.take(name).map(|value| boolean(name, value)).transpose()
    }

    pub(crate) fn integer(&mut self, name: &str) -> Read<Option<Option<u64>>> {
        self.nullable(name, integer)
    }

    pub(crate) fn plain_integer(&mut self, name: &str) -> Read<Option<u64>> {
        self.take(name).map(|value| integer(name, value)).transpose()
    }

    pub(crate) fn required_integer(&mut self, name: &str) -> Read<u64> {
        integer(name, self.take(name).ok_or_else(|| missing(name))?)
    }

    pub(crate) fn instant(&mut self, name: &str) -> Read<Option<Option<Timestamp>>> {
        self.nullable(name, instant)
    }

    pub(crate) fn required_instant(&mut self, name: &str) -> Read<Timestamp> {
        instant(name, self.take(name).ok_or_else(|| missing(name))?)
    }

    pub(crate) fn texts(&mut self, name: &str) -> Read<Option<Option<Vec<String>>>> {
        self.nullable(name, |name, value| match value {
            Json::List(values) => values
                .into_iter()
                .enumerate()
                .map(|(at, value)| text(&format!("{name}[{at}]"), value))
                .collect(),
            other => Err(wrong_type(name, "an array of strings", &other)),
        })
    }

    /// A list of strings that is absent or given, but not null.
    pub(crate) fn plain_texts(&mut self, name: &str) -> Read<Option<Vec<String>>> {
        match self.texts(name)? {
            Some(None) => Err(wrong_type(name, "an array of strings", &Json::Null)),
            other => Ok(other.flatten()),
        }
    }

    /// Refuses whatever nobody took.
    pub(crate) fn finish(self) -> Read<()> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let detail = "there is no such field; remove it, or see /openapi.json";
                Err(FieldError::new(name, "unknown-field", detail))
            }
        }
    }
}

fn text(name: &str, value: Json) -> Read<String> {
    match value {
        Json::Text(text) => Ok(text),
        other => Err(wrong_type(name, "a string", &other)),
    }
}

fn boolean(name: &str, value: Json) -> Read<bool> {
    match value {
        Json::Bool(value) => Ok(value),
        other => Err(wrong_type(name, "true or false", &other)),
    }
}

fn integer(name: &str, value: Json) -> Read<u64> {
    match value {
        Json::Unsigned(value) if value <= MAX_CLICKS => Ok(value),
        // JSON has one kind of number: 5.0 is the integer 5. Above 2^53 a float is no exact one.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        Json::Float(value) if value.fract() == 0.0 && (0.0..=9e15).contains(&value) => {
            Ok(value as u64)
        }
        Json::Unsigned(_) | Json::Signed(_) | Json::Float(_) => Err(FieldError::new(
            name,
            "out-of-range",
            format!("this must be a whole number from 0 to {MAX_CLICKS}"),
        )),
        other => Err(wrong_type(name, "a whole number", &other)),
    }
}

fn instant(name: &str, value: Json) -> Read<Timestamp> {
    let text = text(name, value)?;
    time::parse(&text).ok_or_else(|| bad_instant(name))
}

/// What is said of a text that is no instant.
pub(crate) fn bad_instant(name: &str) -> FieldError {
    FieldError::new(
        name,
        "bad-time",
        "this must be an RFC 3339 date and time with an offset: 2026-12-31T23:59:59Z",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        let deep = "[".repeat(100_000);
        let nested = format!("{}1{}", "[".repeat(17), "]".repeat(17));
        for bad in [
            "",
            " ",
            "{",
            "{}{}",
            "{} x",
            "[1,]",
            "{\"a\":1,}",
            "NaN",
            "Infinity",
            "1e999",
            "{\"a\":1,\"a\":1}",
            "{\"x\":{\"a\":1,\"\\u0061\":2}}",
            "'a'",
            "// c\n1",
            "\"\\ud800\"",
            "\"\u{1}\"",
            "01",
            "+1",
            "{a:1}",
            "\u{feff}{}",
            &deep,
            &nested,
        ] {
            let error = Json::parse(bad.as_bytes()).unwrap_err();
            assert_eq!((&*error.field, &*error.code), ("body", "bad-json"), "{bad:.20}");
        }
        assert!(Json::parse(b"\"\xff\"").is_err());
        assert!(Json::parse(b"\xef\xbb\xbf{}").is_err());
        let fits = format!("{}1{}", "[".repeat(16), "]".repeat(16));
        assert!(Json::parse(fits.as_bytes()).is_ok());
    }

    #[test]
    fn siblings_do_not_count_as_depth() {
        let wide = format!("[{}1]", "[[]],".repeat(1_000));
        assert!(Json::parse(wide.as_bytes()).is_ok());
    }

    #[test]
    fn errors_name_their_field() {
        let body = br#"{"t":5,"n":"x","b":1,"l":["a",7],"i":-1,"w":"yesterday","z":1}"#;
        let mut fields = Fields::parse(body).unwrap();
        let field = |error: FieldError| (error.field, error.code.into_owned());
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(field(fields.text("t").unwrap_err()), pair("t", "wrong-type"));
        assert_eq!(field(fields.integer("n").unwrap_err()), pair("n", "wrong-type"));
        assert_eq!(field(fields.boolean("b").unwrap_err()), pair("b", "wrong-type"));
        assert_eq!(field(fields.texts("l").unwrap_err()), pair("l[1]", "wrong-type"));
        assert_eq!(field(fields.integer("i").unwrap_err()), pair("i", "out-of-range"));
        assert_eq!(field(fields.instant("w").unwrap_err()), pair("w", "bad-time"));
        assert_eq!(field(fields.required_text("q").unwrap_err()), pair("q", "missing-field"));
        assert_eq!(field(fields.finish().unwrap_err()), pair("z", "unknown-field"));
    }

    #[test]
    fn integers_are_exact() {
        let read = |text: &str| {
            let body = format!("{{\"n\":{text}}}");
            Fields::parse(body.as_bytes()).unwrap().plain_integer("n")
        };
        assert_eq!(read("5.0").unwrap(), Some(5));
        assert_eq!(read("9223372036854775807").unwrap(), Some(MAX_CLICKS));
        for bad in [
            "5.5",
            "-1",
            "1e300",
            "9223372036854775808",
            "18446744073709551616",
            "true",
            "null",
            "\"5\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
