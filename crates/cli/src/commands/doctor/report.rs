//! Findings and how they are shown.

use std::fmt::Write;

use serde::Serialize;

use crate::failure::{Exit, Failure};

/// Everything that is looked at, in the order in which it is shown: the first failure is the cause of
/// what follows, so that the clock comes before the certificate, which a wrong one makes look expired.
const CHECKS: [&str; 11] = [
    "key", "profile", "name", "udp", "clock", "tls", "auth", "device", "routes", "mtu", "echo",
];

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// It works, but a person may want to know.
    Warning,
    Failed,
    /// Something before it failed.
    Skipped,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    pub(super) detail: String,
    /// The exit status of a failure.
    #[serde(skip)]
    exit: Option<Exit>,
}

/// All lines.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Ok, detail.into(), None);
    }

    pub(super) fn warn(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Verdict::Warning, detail.into(), None);
    }

    pub(super) fn fail(&mut self, check: &'static str, failure: &Failure) {
        let exit = Some(failure.exit);
        self.add(check, Verdict::Failed, failure.to_string(), exit);
    }

    /// The exit status of the first failure in the order of the checks, whichever was tried first.
    pub(super) fn exit(&self) -> Option<Exit> {
        let first = self
            .findings
            .iter()
            .filter(|finding| finding.exit.is_some());
        first.min_by_key(|finding| place(finding))?.exit
    }

    /// Puts the findings into the order of the checks, and says which were not reached.
    pub(super) fn finish(&mut self) {
        for check in CHECKS {
            if !self.findings.iter().any(|finding| finding.check == check) {
                self.add(check, Verdict::Skipped, "not tried".to_owned(), None);
            }
        }
        self.findings.sort_by_key(place);
    }

    /// One line a finding.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for Finding {
            check,
            verdict,
            detail,
            exit: _,
        } in &self.findings
        {
            let mark = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warn",
                Verdict::Failed => "FAIL",
                Verdict::Skipped => "-",
            };
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{mark:<6}{check:<9}{detail}");
        }
        text
    }

    fn add(&mut self, check: &'static str, verdict: Verdict, detail: String, exit: Option<Exit>) {
        debug_assert!(CHECKS.contains(&check), "{check} is not in the list");
        self.findings.push(Finding {
            check,
            verdict,
            detail,
            exit,
        });
    }
}

/// Where a finding is shown.
fn place(finding: &Finding) -> Option<usize> {
    CHECKS.iter().position(|check| *check == finding.check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_decides_and_the_rest_is_not_tried() {
        let mut report = Report::default();
        report.ok("key", "here");
        report.fail(
            "udp",
            &Failure::new(Exit::Unavailable, "blocked", "open it"),
        );
        report.fail("device", &Failure::new(Exit::NoPermission, "denied", ""));
        assert_eq!(report.exit(), Some(Exit::Unavailable));
        report.finish();
        assert_eq!(report.exit(), Some(Exit::Unavailable));
        let text = report.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), CHECKS.len());
        assert_eq!(lines[0], "ok    key      here");
        assert_eq!(lines[3], "FAIL  udp      blocked; open it");
        assert_eq!(lines[10], "-     echo     not tried");
    }

    #[test]
    fn a_wrong_clock_is_the_cause_of_a_certificate_that_is_not_valid() {
        let mut report = Report::default();
        report.fail("tls", &Failure::new(Exit::Unavailable, "not valid yet", ""));
        report.fail("clock", &Failure::new(Exit::Config, "it is 1970", "set it"));
        report.finish();
        assert_eq!(report.exit(), Some(Exit::Config));
        let text = report.text();
        let failed: Vec<&str> = text.lines().filter(|l| l.starts_with("FAIL")).collect();
        let expected = [
            "FAIL  clock    it is 1970; set it",
            "FAIL  tls      not valid yet",
        ];
        assert_eq!(failed, expected);
    }

    #[test]
    fn the_exit_status_is_that_of_the_failure_that_is_shown_first() {
        let mut report = Report::default();
        // Tried early, shown late.
        report.fail("device", &Failure::new(Exit::NoPermission, "denied", ""));
        report.fail("profile", &Failure::new(Exit::Usage, "no gateway", ""));
        report.finish();
        assert_eq!(report.exit(), Some(Exit::Usage));
        let text = report.text();
        let failed = text.lines().find(|line| line.starts_with("FAIL"));
        assert_eq!(failed, Some("FAIL  profile  no gateway"));
    }
}
