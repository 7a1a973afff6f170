//! What is printed from the table: the default file, the reference page, the effective values.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::load::Loaded;
use super::table::{Flag, SETTINGS, Setting, in_section, sections};

/// The settings file with every setting at its default, commented out and explained.
pub fn default_toml() -> String {
    let mut text = String::from(
        "# Settings of shunt: `shunt.toml` in the data directory, or --config FILE.\n\
         # The environment wins over this file, and flags win over the environment.\n\
         # Every value here is the default; remove the # before a line to change it.\n",
    );
    for section in sections() {
        if !section.is_empty() {
            let _ = write!(text, "\n[{section}]\n");
        }
        for setting in in_section(section) {
            let name = setting.key.rsplit('.').next().unwrap_or(setting.key);
            text.push('\n');
            for line in wrap(setting.doc, 97) {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "# ({}; {})", setting.unit, setting.env);
            let _ = writeln!(text, "#{name} = {}", toml_value(setting));
        }
    }
    text
}

fn toml_value(setting: &Setting) -> String {
    if setting.is_list() {
        "[]".to_owned()
    } else if setting.quoted() {
        // No default holds a quote or a backslash; a test parses them all.
        format!("\"{}\"", setting.default)
    } else {
        setting.default.to_owned()
    }
}

/// The page `docs/config.md`.
pub fn reference() -> String {
    let mut text = String::from(
        "# Settings\n\n\
         <!-- Made by `shunt config default --markdown`; a test compares. Do not edit. -->\n\n\
         One TOML file, then the environment, then flags: the later wins. The file is\n\
         `shunt.toml` in the data directory, or what `--config` or `SHUNT_CONFIG` names. Every\n\
         command takes `--set KEY=VALUE` for any setting. `shunt config check` lists everything\n\
         that is wrong at once and exits with 64; `shunt config show` prints the effective values\n\
         and where each came from.\n\n\
         Sizes are written with their unit (`64MiB`, `1GB`) or as a number of bytes, durations\n\
         with their unit (`20ms`, `5s`, `15m`, `24h`), lists as arrays of texts in the file and\n\
         comma-separated elsewhere. An empty environment variable counts as not set. A setting\n\
         marked *secret* can also be read from a file: `KEY_file` in the settings file, or its\n\
         variable with `_FILE` at the end.\n",
    );
    for section in sections() {
        let title = if section.is_empty() { "Top of the file" } else { section };
        let title = if section.is_empty() { title.to_owned() } else { format!("`[{title}]`") };
        let _ = write!(text, "\n## {title}\n");
        for setting in in_section(section) {
            let default = if setting.default.is_empty() {
                "empty".to_owned()
            } else {
                format!("`{}`", setting.default)
            };
            let flag = match setting.flag {
                Flag::Common(flag) => format!(" · flag `--{flag}`"),
                Flag::Serve(flag) => format!(" · flag `--{flag}` of `serve`"),
                Flag::No => String::new(),
            };
            let secret = if setting.secret {
                format!(" · *secret*: `{}_FILE`, `{}_file`", setting.env, setting.key)
            } else {
                String::new()
            };
            let _ = write!(
                text,
                "\n### `{}`\n\n{} · default {default} · variable `{}`{flag}{secret}\n\n",
                setting.key,
                capital(setting.unit),
                setting.env,
            );
            for line in wrap(setting.doc, 97) {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let full = lines
            .last()
            .is_some_and(|line| !line.is_empty() && line.len() + 1 + word.len() > width);
        if full {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// The effective values as text: key, value, origin.
pub fn show_text(loaded: &Loaded) -> String {
    let mut text = String::new();
    for (setting, value, origin) in &loaded.values {
        let value = shown(setting, value, loaded);
        let _ = writeln!(text, "{} = {value}  # {origin}", setting.key);
    }
    text
}

/// The effective values as JSON: `{key: {"value", "origin"}}`.
pub fn show_json(loaded: &Loaded) -> Value {
    let settings = loaded.values.iter().map(|(setting, value, origin)| {
        let value = shown(setting, value, loaded);
        (setting.key.to_owned(), json!({ "value": value, "origin": origin.to_string() }))
    });
    let file = loaded.file.as_ref().map(|path| path.display().to_string());
    json!({ "file": file, "settings": settings.collect::<serde_json::Map<_, _>>() })
}

fn shown(setting: &Setting, value: &str, loaded: &Loaded) -> String {
    match setting.key {
        // What the empty default stands for is what people look for here.
        "data_dir" => loaded.config.data_dir.display().to_string(),
        "store.url" if value.is_empty() => {
            format!("sqlite://{}/links.db", loaded.config.store_dir().display())
        }
        _ if setting.secret && setting.is_list() => {
            value.split(',').map(|item| redacted(item.trim())).collect::<Vec<_>>().join(",")
        }
        _ if setting.secret => redacted(value),
        _ => value.to_owned(),
    }
}

/// A URL without its user information, path parameters or query: `scheme://***@host/path`.
fn redacted(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        // Words such as `none` are no secret; anything else might be one.
        let is_word = SETTINGS.iter().any(|setting| setting.secret && setting.default == value);
        return if is_word { value.to_owned() } else { "***".to_owned() };
    };
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?***"));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{query}"),
        None => format!("{scheme}://{rest}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_urls_are_redacted() {
        for (secret, expected) in [
            ("postgres://me:pass@db/x", "postgres://***@db/x"),
            ("redis://:p@ss@db:6379/0?password=x", "redis://***@db:6379/0?***"),
            ("sqlite:///a/b.db", "sqlite:///a/b.db"),
            ("none", "none"),
            ("hunter2", "***"),
        ] {
            assert_eq!(redacted(secret), expected);
        }
    }
}
