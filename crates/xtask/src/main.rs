//! Project chores. `cargo run -p xtask -- tidy` checks the architecture's arrows and the text of
//! the tree; `… -- conformance` regenerates `docs/conformance.md`; `… -- crds` regenerates `crds/`, the
//! chart of the definitions and the field reference; `… -- documents` checks the documents.
#![forbid(unsafe_code)]

mod arrows;
mod conformance;
mod crds;
mod documents;
mod metadata;
mod reference;
mod text;
mod yaml;

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let task = arguments.get(1).cloned().unwrap_or_default();
    let result = match task.as_str() {
        "tidy" => tidy(),
        "conformance" => {
            let flag = |name: &str| arguments.iter().position(|a| a == name);
            let from = flag("--from").and_then(|at| arguments.get(at + 1));
            conformance::regenerate(flag("--check").is_some(), from.map(String::as_str))
        }
        "crds" => {
            let check = arguments.iter().any(|argument| argument == "--check");
            crds::run(Path::new("."), check)
        }
        "documents" => documents::check(Path::new(".")),
        other => Err(vec![format!(
            "unknown task {other:?}; there are: tidy, conformance [--check] [--from FILE], crds [--check], documents"
        )]),
    };
    match result {
        Ok(done) => {
            eprintln!("{task}: {done}");
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in &problems {
                eprintln!("{task}: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}

/// What a task did, or every problem that it found.
type Outcome = Result<String, Vec<String>>;

fn tidy() -> Outcome {
    let metadata = metadata::load().map_err(|e| vec![e])?;
    let mut problems = arrows::check(&metadata);
    problems.extend(text::check(&metadata.root));
    if problems.is_empty() {
        Ok(format!(
            "{} crates, every arrow allowed",
            metadata.packages.len()
        ))
    } else {
        Err(problems)
    }
}
