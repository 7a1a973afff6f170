//! `shunt config`.

use crate::config::{
    CommonFlags, Environment, Loaded, default_toml, reference, show_json, show_text,
};

use super::exit::{Code, Failure};
use super::output;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print a settings file with every setting explained and commented out
    Default {
        /// As the reference page docs/config.md instead
        #[arg(long)]
        markdown: bool,
    },
    /// List everything that is wrong with the settings, and exit with 64 if anything is
    Check {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the effective settings and where each came from; secrets are left out
    Show {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Command, flags: &CommonFlags) -> anyhow::Result<()> {
    match command {
        Command::Default { markdown: true } => output::text_out(&reference()),
        Command::Default { markdown: false } => output::text_out(&default_toml()),
        Command::Check { json } => check(*json, flags),
        Command::Show { json } => {
            let loaded = Loaded::load(flags, &Environment::of_process())?;
            if *json {
                output::json(&show_json(&loaded))
            } else {
                output::text_out(&show_text(&loaded))
            }
        }
    }
}

fn check(json: bool, flags: &CommonFlags) -> anyhow::Result<()> {
    match Loaded::load(flags, &Environment::of_process()) {
        Ok(loaded) => {
            let file = loaded.file.as_ref().map(|path| path.display().to_string());
            if json {
                let ok = serde_json::json!({
                    "ok": true, "file": file, "problems": [], "warnings": loaded.warnings,
                });
                return output::json(&ok);
            }
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            let read = file.unwrap_or_else(|| "no settings file".to_owned());
            output::line(&format!("the settings are fine ({read})"))
        }
        Err(problems) => {
            let count = problems.0.len();
            if json {
                let all: Vec<_> = problems
                    .0
                    .iter()
                    .map(|problem| {
                        serde_json::json!({
                            "key": problem.key,
                            "origin": problem.origin.as_ref().map(ToString::to_string),
                            "why": problem.why,
                        })
                    })
                    .collect();
                output::json(&serde_json::json!({ "ok": false, "problems": all }))?;
            } else {
                for problem in &problems.0 {
                    eprintln!("{problem}");
                }
            }
            let plural = if count == 1 { "" } else { "s" };
            Err(Failure::error(Code::Usage, format!("{count} bad setting{plural}; see above")))
        }
    }
}
