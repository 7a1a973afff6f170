//! What checks find, and how it is told.

use serde_json::{Value, json};

use super::problems::Problem;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Fine,
    /// It works, and not as it should, or not for long.
    Warning,
    /// Something is lost, refused or about to be.
    Wrong,
}

impl Verdict {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Wrong => "WRONG",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// The problem's id, or what was looked at where there is none.
    pub(super) id: &'static str,
    pub(super) verdict: Verdict,
    /// What was seen.
    detail: String,
    problem: Option<&'static Problem>,
}

impl Finding {
    /// For people: what was found, why it matters, what to do.
    pub(super) fn line(&self) -> String {
        let Self { id, verdict, detail, problem } = self;
        let word = verdict.word();
        match problem {
            None => format!("{word:8} {id}: {detail}"),
            Some(Problem { why, remedy, .. }) => {
                format!("{word:8} {id}: {detail}: {why}; {remedy}")
            }
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        // `postgres-fsync` is a finding of the check `postgres`.
        let check = self.id.split_once('-').map_or(self.id, |(check, _)| check);
        let mut json = json!({
            "id": self.id,
            "check": check,
            "verdict": self.verdict.word().to_lowercase(),
            "detail": self.detail,
        });
        if let (Some(problem), Some(fields)) = (self.problem, json.as_object_mut()) {
            fields.insert("why".to_owned(), problem.why.into());
            fields.insert("remedy".to_owned(), problem.remedy.into());
        }
        json
    }
}

/// What the checks found.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    /// A check that is as it should be.
    pub(super) fn fine(&mut self, id: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { id, verdict: Verdict::Fine, detail: detail.into(), problem: None });
    }

    /// Something that works for now.
    pub(super) fn warn(&mut self, problem: &'static Problem, detail: impl Into<String>) {
        self.add(Verdict::Warning, problem, detail.into());
    }

    /// Something that does not.
    pub(super) fn wrong(&mut self, problem: &'static Problem, detail: impl Into<String>) {
        self.add(Verdict::Wrong, problem, detail.into());
    }

    fn add(&mut self, verdict: Verdict, problem: &'static Problem, detail: String) {
        self.0.push(Finding { id: problem.id, verdict, detail, problem: Some(problem) });
    }

    /// How many came out like this.
    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// Ids and verdicts of what is not fine.
    #[cfg(test)]
    pub(super) fn bad(&self) -> Vec<(&'static str, Verdict)> {
        let bad = self.0.iter().filter(|finding| finding.verdict != Verdict::Fine);
        bad.map(|finding| (finding.id, finding.verdict)).collect()
    }
}
