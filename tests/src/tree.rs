//! The files of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Every file that git knows or would add, relative to the root, sorted.
///
/// # Errors
/// When git can't be asked.
pub fn files() -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("ask git for the files")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut files: Vec<String> = text
        .lines()
        // A file that was deleted but not yet committed is still in the index.
        .filter(|file| root().join(file).is_file())
        .map(ToOwned::to_owned)
        .collect();
    files.sort();
    Ok(files)
}

/// The files of this extension with their text.
///
/// # Errors
/// When one can't be read.
pub fn texts(extension: &str) -> Result<Vec<(String, String)>> {
    let suffix = format!(".{extension}");
    let mut texts = Vec::new();
    for file in files()?.into_iter().filter(|file| file.ends_with(&suffix)) {
        let text =
            std::fs::read_to_string(root().join(&file)).with_context(|| format!("read {file}"))?;
        texts.push((file, text));
    }
    Ok(texts)
}

/// A Rust source without its comments and without the contents of its text literals, line by line
/// (lines are kept, so numbers fit). Good enough to search for words of the language.
pub fn code_of(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source.chars().peekable();
    let mut previous = ' ';
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => {
                for c in rest.by_ref() {
                    if c == '\n' {
                        code.push('\n');
                        break;
                    }
                }
            }
            '/' if rest.peek() == Some(&'*') => {
                let mut last = ' ';
                for c in rest.by_ref() {
                    if c == '\n' {
                        code.push('\n');
                    }
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            'r' if matches!(rest.peek(), Some('"' | '#'))
                && !previous.is_alphanumeric()
                && previous != '_' =>
            {
                skip_raw(&mut rest, &mut code);
            }
            '"' => {
                code.push('"');
                while let Some(c) = rest.next() {
                    match c {
                        // A line continued behind a backslash keeps its end.
                        '\\' => code.extend(rest.next().filter(|c| *c == '\n')),
                        '\n' => code.push('\n'),
                        '"' => break,
                        _ => {}
                    }
                }
                code.push('"');
            }
            '\'' => {
                // A character literal, or a lifetime.
                let mut ahead = rest.clone();
                match (ahead.next(), ahead.next()) {
                    (Some('\\'), _) => {
                        rest.next();
                        rest.next();
                        while rest.next().is_some_and(|c| c != '\'') {}
                    }
                    (Some(_), Some('\'')) => {
                        rest.next();
                        rest.next();
                    }
                    _ => code.push('\''),
                }
            }
            c => code.push(c),
        }
        previous = c;
    }
    code
}

/// Skips a raw text literal whose `r` has been read; a raw identifier (`r#type`) stays.
fn skip_raw(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, code: &mut String) {
    let mut hashes = 0;
    let mut ahead = rest.clone();
    while ahead.peek() == Some(&'#') {
        ahead.next();
        hashes += 1;
    }
    if ahead.next() != Some('"') {
        code.push('r');
        return;
    }
    *rest = ahead;
    let mut seen = None;
    for c in rest.by_ref() {
        if c == '\n' {
            code.push('\n');
        }
        seen = match (c, seen) {
            ('"', _) => Some(0),
            ('#', Some(n)) => Some(n + 1),
            _ => None,
        };
        if seen == Some(hashes) {
            break;
        }
    }
    code.push_str("\"\"");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_no_code() {
        let source =
            "a // b\n\"c \\\" d\" e /* f\n g */ h 'i' '\\'' 'life r#\"j \" k\"# l r#type\n";
        let code = code_of(source);
        assert_eq!(code.lines().count(), source.lines().count());
        for gone in ["b", "c", "d", "g", "'i'", "j", "k"] {
            assert!(!code.contains(gone), "{gone} in {code}");
        }
        for kept in ["a", "h", "'life", "l r#type"] {
            assert!(code.contains(kept), "{kept} not in {code}");
        }
    }

    #[test]
    fn this_file_is_among_the_files() {
        assert!(files().unwrap().contains(&"tests/src/tree.rs".to_owned()));
    }
}
