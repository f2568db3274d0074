//! `docs/conformance.md`: every requirement by number, and the tests that prove it.
//!
//! A test proves number 53 by being called `n53_…`. The page is made from a run of the tests, so it
//! says what passes, not what exists. Numbers without a test are in `docs/conformance.exceptions`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    process::{Command, Stdio},
};

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
    let printed = tests_printed(from).map_err(|e| vec![e])?;
    let results = results(&printed);
    let mut problems = Vec::new();
    for requirement in &requirements {
        let tests = results.get(&requirement.number);
        let excepted = exceptions.contains_key(&requirement.number);
        if tests.is_none() && !excepted {
            problems.push(format!(
                "number {} has no test n{:02}_… and no line in {EXCEPTIONS}",
                requirement.number, requirement.number
            ));
        }
        for (test, passed) in tests.into_iter().flatten() {
            if !passed {
                problems.push(format!("number {}: {test} fails", requirement.number));
            }
        }
    }
    let page = page(&requirements, &exceptions, &results);
    if check {
        if std::fs::read_to_string(PAGE).unwrap_or_default() != page {
            problems.push(format!(
                "{PAGE} is not what the tests say; run make conformance"
            ));
        }
    } else {
        std::fs::write(PAGE, page).map_err(|e| vec![format!("{PAGE}: {e}")])?;
    }
    if problems.is_empty() {
        Ok(format!(
            "{} numbers, {} of them by tests",
            requirements.len(),
            results.len()
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

type Results = BTreeMap<u32, BTreeMap<String, bool>>;

fn tests_printed(from: Option<&str>) -> Result<String, String> {
    if let Some(path) = from {
        return read(path);
    }
    let output = Command::new("cargo")
        .args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
        ])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo test did not start: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn results(printed: &str) -> Results {
    let mut results = Results::new();
    for line in printed.lines() {
        let Some(rest) = line.strip_prefix("test ") else {
            continue;
        };
        let Some((path, result)) = rest.split_once(" ... ") else {
            continue;
        };
        if !matches!(result, "ok" | "FAILED") {
            continue;
        }
        let name = path.rsplit("::").next().unwrap_or(path);
        for number in numbers(name) {
            let tests = results.entry(number).or_default();
            // One name may stand in several crates: it passes if all of them do.
            *tests.entry(name.to_owned()).or_insert(true) &= result == "ok";
        }
    }
    results
}

/// The numbers a test's name begins with: `n49_n50_requests` proves 49 and 50.
fn numbers(name: &str) -> Vec<u32> {
    name.split('_')
        .map_while(|part| {
            part.strip_prefix('n')
                .and_then(|digits| digits.parse().ok())
        })
        .collect()
}

fn page(
    requirements: &[Requirement],
    exceptions: &BTreeMap<u32, (String, String)>,
    results: &Results,
) -> String {
    let mut out = String::from(
        "# Conformance\n\nMade by `make conformance` from a run of the tests; do not edit. A number is met when every\n\
         test named after it passes. `n53_…` is a test of number 53; find it with `grep -rn 'fn n53_' crates tests`.\n\n\
         | number | where | what | status | tests, or why not |\n|---|---|---|---|---|\n",
    );
    for requirement in requirements {
        let (status, proof) = match (
            results.get(&requirement.number),
            exceptions.get(&requirement.number),
        ) {
            (Some(tests), exception) => {
                let status = if tests.values().all(|passed| *passed) {
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
    use super::numbers;

    #[test]
    fn a_test_may_prove_several_numbers() {
        assert_eq!(numbers("n06_second_control_stream"), [6]);
        assert_eq!(numbers("n49_n50_requests"), [49, 50]);
        assert!(numbers("never_panics").is_empty());
    }
}
