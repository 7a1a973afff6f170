//! As much of Markdown as the checks of the documents need: links, headings, fenced code.

/// One fenced code block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The word behind the opening fence: `sh`, `toml`, …
    pub language: String,
    /// What is inside.
    pub text: String,
}

/// The fenced code blocks of a document, in order.
pub fn fences(text: &str) -> Vec<Fence> {
    let mut fences = Vec::new();
    let mut open: Option<Fence> = None;
    for line in text.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let language = language.trim().to_owned();
                open = Some(Fence { language, text: String::new() });
            }
            (Some(_), Some(_)) => fences.extend(open.take()),
            (Some(fence), None) => {
                fence.text.push_str(line);
                fence.text.push('\n');
            }
            (None, None) => {}
        }
    }
    fences
}

/// The document without its fenced code.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// The targets of all links and pictures.
pub fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let mut links = Vec::new();
    for (at, _) in prose.match_indices("](") {
        let rest = prose.get(at + 2..).unwrap_or_default();
        if let Some((target, _)) = rest.split_once(')') {
            let target = target.split_whitespace().next().unwrap_or_default();
            links.push(target.to_owned());
        }
    }
    links
}

/// The anchors of all headings, as the common renderers make them.
pub fn anchors(text: &str) -> Vec<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept =
                title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_anchors_and_fences_are_found() {
        let text =
            "# A `b` c!\nsee [x](docs/x.md#y) and ![p](p.png \"t\")\n```sh\n[no](no)\nls\n```\n";
        assert_eq!(links(text), ["docs/x.md#y", "p.png"]);
        assert_eq!(anchors(text), ["a-b-c"]);
        let fence = Fence { language: "sh".to_owned(), text: "[no](no)\nls\n".to_owned() };
        assert_eq!(fences(text), [fence]);
    }
}
