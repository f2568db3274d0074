//! `docs/conformance.md`: every requirement by number, and the tests that prove it.
//!
//! A test proves number 53 by being called `n53_…`. The page is made from a run of the tests, so it
//! says what passes, not what exists; a test that skipped itself proves nothing. Numbers without a
//! test are in `docs/conformance.exceptions`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
};

mod run;

use run::{Results, Run, Verdict};

use crate::Outcome;

const PAGE: &str = "docs/conformance.md";
const TITLES: &str = "docs/conformance.numbers";
const EXCEPTIONS: &str = "docs/conformance.exceptions";

/// A requirement of `docs/conformance.numbers`: `number | where | what`.
struct Requirement {
    number: u32,
    source: String,
    what: String,
}

/// Runs the tests and writes the page; with `check`, only compares. `from` names a file that holds
/// what such a run printed, and saves the run.
pub(crate) fn regenerate(check: bool, from: Option<&str>) -> Outcome {
    let requirements = requirements().map_err(|e| vec![e])?;
    let exceptions = exceptions().map_err(|e| vec![e])?;
    let run = run::read(&tests_printed(from).map_err(|e| vec![e])?);
    let mut problems = problems(&requirements, &exceptions, &run, check);
    let page = page(&requirements, &exceptions, &run.results);
    if check {
        tell_skips(&run);
        if std::fs::read_to_string(PAGE).unwrap_or_default() != page {
            problems.push(format!(
                "{PAGE} is not what the tests say; run make conformance"
            ));
        }
    } else if run.skips.is_empty() && run.unclear.is_empty() {
        std::fs::write(PAGE, page).map_err(|e| vec![format!("{PAGE}: {e}")])?;
    }
    if problems.is_empty() {
        Ok(format!(
            "{} numbers, {} of them by tests",
            requirements.len(),
            run.results.len()
        ))
    } else {
        Err(problems)
    }
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(Path::new(path)).map_err(|e| format!("{path}: {e}"))
}

fn rows(text: &str) -> impl Iterator<Item = Vec<String>> {
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
}

fn requirements() -> Result<Vec<Requirement>, String> {
    rows(&read(TITLES)?)
        .map(|row| match row.as_slice() {
            [number, source, what] => Ok(Requirement {
                number: number.parse().map_err(|_| format!("{TITLES}: {number}"))?,
                source: source.clone(),
                what: what.clone(),
            }),
            other => Err(format!("{TITLES}: three cells a line, not {other:?}")),
        })
        .collect()
}

/// `number | not applicable or later | why`.
fn exceptions() -> Result<BTreeMap<u32, (String, String)>, String> {
    rows(&read(EXCEPTIONS)?)
        .map(|row| match row.as_slice() {
            [number, status, why] => {
                let number = number
                    .parse()
                    .map_err(|_| format!("{EXCEPTIONS}: {number}"))?;
                Ok((number, (status.clone(), why.clone())))
            }
            other => Err(format!("{EXCEPTIONS}: three cells a line, not {other:?}")),
        })
        .collect()
}

/// What the tests print. Each one's output has a head of its own, so that a skip has a name.
fn tests_printed(from: Option<&str>) -> Result<String, String> {
    if let Some(path) = from {
        return read(path);
    }
    let installed = Command::new("scripts/deps").arg("tests").status();
    if !installed.is_ok_and(|status| status.success()) {
        eprintln!("conformance: some programs are missing: the tests that need them say so");
    }
    let output = Command::new("cargo")
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(["--lib", "--bins", "--tests", "--", "--show-output"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo test did not start: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What keeps the page from being what the run says. A page is made of tests that ran; it can be
/// compared with a run that skipped some, for then they are taken as they stand.
fn problems(
    requirements: &[Requirement],
    exceptions: &BTreeMap<u32, (String, String)>,
    run: &Run,
    check: bool,
) -> Vec<String> {
    let mut problems = Vec::new();
    for requirement in requirements {
        let number = requirement.number;
        let tests = run.results.get(&number);
        if tests.is_none() && !exceptions.contains_key(&number) {
            problems.push(format!(
                "number {number} has no test n{number:02}_… and no line in {EXCEPTIONS}"
            ));
        }
        for (test, verdict) in tests.into_iter().flatten() {
            if *verdict == Verdict::Failed {
                problems.push(format!("number {number}: {test} fails"));
            }
        }
    }
    if !check {
        for (reason, tests) in &run.skips {
            let tests = listed(tests);
            problems.push(format!("{tests}: skipped here, so not met: {reason}"));
        }
    }
    for line in &run.unclear {
        problems.push(format!(
            "{line:?} lies among the output of other tests; run them with --show-output"
        ));
    }
    problems
}

/// Says which tests a run that is compared skipped; a line of it is for the list that `scripts/test`
/// ends with.
fn tell_skips(run: &Run) {
    for (reason, tests) in &run.skips {
        eprintln!("conformance: did not run here: {}", listed(tests));
        let count = tests.len();
        eprintln!("SKIPPED: {count} tests of {PAGE}, which is taken at its word: {reason}");
    }
}

fn listed(tests: &BTreeSet<String>) -> String {
    let tests: Vec<&str> = tests.iter().map(String::as_str).collect();
    tests.join(", ")
}

fn page(
    requirements: &[Requirement],
    exceptions: &BTreeMap<u32, (String, String)>,
    results: &Results,
) -> String {
    let mut out = String::from(
        "# Conformance\n\nMade by `make conformance` from a run of the tests; do not edit. A number is met when every\n\
         test named after it runs and passes. `n53_…` is a test of number 53; find it with `grep -rn 'fn n53_' crates tests`.\n\n\
         | number | where | what | status | tests, or why not |\n|---|---|---|---|---|\n",
    );
    for requirement in requirements {
        let (status, proof) = match (
            results.get(&requirement.number),
            exceptions.get(&requirement.number),
        ) {
            (Some(tests), exception) => {
                let status = if tests.values().all(|verdict| *verdict < Verdict::Failed) {
                    "met"
                } else {
                    "**fails**"
                };
                let mut names: Vec<String> = tests.keys().map(|t| format!("`{t}`")).collect();
                let status = match exception {
                    Some((partial, why)) => {
                        names.push(format!("{partial}: {why}"));
                        format!("{status} in part")
                    }
                    None => status.to_owned(),
                };
                (status, names.join(", "))
            }
            (None, Some((status, why))) => (status.clone(), why.clone()),
            (None, None) => ("**open**".to_owned(), String::new()),
        };
        let Requirement {
            number,
            source,
            what,
        } = requirement;
        let _ = writeln!(out, "| {number} | {source} | {what} | {status} | {proof} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Requirement, problems, run};

    #[test]
    fn a_skipped_test_proves_nothing_but_may_be_compared() {
        let number = |number| Requirement {
            number,
            source: String::new(),
            what: String::new(),
        };
        let printed = "test n01_one ... ok\ntest n02_two ... ok\n\nsuccesses:\n\n\
                       ---- n02_two stdout ----\nSKIPPED: needs root\n";
        let run = run::read(printed);
        let of = |check| problems(&[number(1), number(2)], &BTreeMap::new(), &run, check);
        let refused = ["n02_two: skipped here, so not met: needs root"];
        assert_eq!(of(false), refused);
        assert!(of(true).is_empty());
    }
}
