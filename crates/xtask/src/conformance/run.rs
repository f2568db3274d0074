//! What a run of the tests printed, by the numbers that the tests prove.

use std::collections::{BTreeMap, BTreeSet};

/// What a test prints that cannot run here, before the reason.
const SKIPPED: &str = "SKIPPED:";

/// What became of a test; of several of one name, what is worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Passed,
    /// It passed, and said that it could not run.
    Skipped,
    Failed,
}

/// The tests of each number.
pub(crate) type Results = BTreeMap<u32, BTreeMap<String, Verdict>>;

/// A run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) results: Results,
    /// Why tests were skipped: the reason, and the tests of a number among them.
    pub(crate) skips: BTreeMap<String, BTreeSet<String>>,
    /// Skips of which the run does not say whose they are, and results with other output among them.
    pub(crate) unclear: Vec<String>,
}

/// Reads what a run with `--show-output` printed. There the output of each test has a head of its own;
/// with `--nocapture` it lies among the results of others, so that nobody knows who was skipped.
pub(crate) fn read(printed: &str) -> Run {
    let mut run = Run::default();
    let mut section = None;
    for line in printed.lines() {
        if let Some(name) = head(line) {
            section = Some(name);
        } else if ends_sections(line) {
            section = None;
        } else if let Some((_, reason)) = line.split_once(SKIPPED) {
            match section {
                Some(name) => run.skip(name, reason.trim()),
                None => run.unclear.push(line.trim().to_owned()),
            }
        } else if section.is_none()
            && let Some((path, result)) = result(line)
        {
            run.note(last(path), result, line);
        }
    }
    run
}

/// The test whose output follows.
fn head(line: &str) -> Option<&str> {
    let path = line.strip_prefix("---- ")?.strip_suffix(" stdout ----")?;
    Some(last(path))
}

fn ends_sections(line: &str) -> bool {
    let is_count = |rest: &str| {
        let count = rest.strip_suffix(" tests").or(rest.strip_suffix(" test"));
        count.is_some_and(|count| count.parse::<u32>().is_ok())
    };
    let ends = ["test result: ok. ", "test result: FAILED. "];
    matches!(line, "successes:" | "failures:")
        || line.strip_prefix("running ").is_some_and(is_count)
        || ends.iter().any(|end| line.starts_with(end))
}

fn result(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ")
}

fn last(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

impl Run {
    fn note(&mut self, name: &str, result: &str, line: &str) {
        match result {
            "ok" => self.add(name, Verdict::Passed),
            "FAILED" => self.add(name, Verdict::Failed),
            other if other.starts_with("ignored") => {}
            _ if numbers(name).is_empty() => {}
            _ => self.unclear.push(line.to_owned()),
        }
    }

    fn skip(&mut self, name: &str, reason: &str) {
        if numbers(name).is_empty() {
            return;
        }
        self.add(name, Verdict::Skipped);
        let names = self.skips.entry(reason.to_owned()).or_default();
        names.insert(name.to_owned());
    }

    /// One name may stand in several crates: it passes if all of them do.
    fn add(&mut self, name: &str, verdict: Verdict) {
        for number in numbers(name) {
            let tests = self.results.entry(number).or_default();
            let known = tests.entry(name.to_owned()).or_insert(verdict);
            *known = verdict.max(*known);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::{Verdict, numbers, read};

    #[test]
    fn a_test_may_prove_several_numbers() {
        assert_eq!(numbers("n06_second_control_stream"), [6]);
        assert_eq!(numbers("n49_n50_requests"), [49, 50]);
        assert!(numbers("never_panics").is_empty());
    }

    #[test]
    fn a_skipped_test_is_known_by_what_it_printed() {
        let run = read(
            "test n01_one ... ok\ntest suite::n02_two ... ok\ntest n03_three ... FAILED\n\
             test other ... ok\n\nsuccesses:\n\n---- suite::n02_two stdout ----\n\
             SKIPPED: needs root\n\n---- other stdout ----\nSKIPPED: no VRF\n\n\nsuccesses:\n    \
             n01_one\n    suite::n02_two\n\nfailures:\n\n---- n03_three stdout ----\npanicked\n",
        );
        let of = |number: u32, name: &str| run.results[&number][name];
        assert_eq!(of(1, "n01_one"), Verdict::Passed);
        assert_eq!(of(2, "n02_two"), Verdict::Skipped);
        assert_eq!(of(3, "n03_three"), Verdict::Failed);
        assert_eq!(run.skips.len(), 1, "others are none of the page's");
        assert!(run.skips["needs root"].contains("n02_two"));
        assert!(run.unclear.is_empty());
    }

    #[test]
    fn of_two_tests_of_one_name_the_worst_counts() {
        let skipped = "test n01_one ... ok\n---- n01_one stdout ----\nSKIPPED: no\ntest result: ok. 1 passed;\n";
        for printed in [
            format!("{skipped}test n01_one ... ok\n"),
            format!("test n01_one ... ok\ntest result: ok. 1 passed;\n{skipped}"),
        ] {
            assert_eq!(read(&printed).results[&1]["n01_one"], Verdict::Skipped);
        }
        let failed = format!("test n01_one ... FAILED\n{skipped}");
        assert_eq!(read(&failed).results[&1]["n01_one"], Verdict::Failed);
    }

    /// What a test prints may look like what the harness does.
    #[test]
    fn a_section_is_ended_by_the_harness_alone() {
        let printed = "test n01_one ... ok\n---- n01_one stdout ----\nrunning 3 clients\n\
                       test result: 4\ntest n02_two ... ok\nSKIPPED: no\nrunning 2 tests\n\
                       test n03_three ... ok\n";
        let run = read(printed);
        assert!(run.unclear.is_empty(), "{run:?}");
        assert_eq!(run.results[&1]["n01_one"], Verdict::Skipped);
        assert!(!run.results.contains_key(&2));
        assert_eq!(run.results[&3]["n03_three"], Verdict::Passed);
    }

    #[test]
    fn what_lies_among_the_output_of_others_is_unclear() {
        let printed = "SKIPPED: needs root\ntest n01_one ... ok\ntest n02_two ... 2 clients\nok\n\
                       test other ... SKIPPED: no VRF\ntest n03_three ... ignored\n";
        let run = read(printed);
        let expected = [
            "SKIPPED: needs root",
            "test n02_two ... 2 clients",
            "test other ... SKIPPED: no VRF",
        ];
        assert_eq!(run.unclear, expected);
        assert_eq!(run.results.len(), 1);
    }
}
