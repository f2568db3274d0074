//! What the documents must say: a section for every reason of a condition, and links that lead
//! somewhere.

use std::{collections::BTreeSet, path::Path};

use masque_api::Reason;

use crate::Outcome;

/// The failure catalogue.
const CATALOGUE: &str = "docs/kubernetes/failures.md";

/// Folders whose pages are read for links.
const PAGES: [&str; 5] = [
    "docs",
    "docs/kubernetes",
    "docs/kubernetes/tasks",
    "docs/reference",
    "examples/kubernetes",
];

/// Checks the documents below `root`.
pub(crate) fn check(root: &Path) -> Outcome {
    let catalogue = std::fs::read_to_string(root.join(CATALOGUE))
        .map_err(|e| vec![format!("{CATALOGUE}: {e}")])?;
    let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let mut problems = catalogue_problems(&catalogue, &names);
    let mut pages = 0;
    for folder in PAGES {
        let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten();
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|e| e == "md") {
                pages += 1;
                problems.extend(broken_links(&path));
            }
        }
    }
    if problems.is_empty() {
        Ok(format!("{} reasons, {pages} pages", names.len()))
    } else {
        Err(problems)
    }
}

/// Reasons without a section, sections without a reason, and sections without cause and cure.
fn catalogue_problems(text: &str, reasons: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for section in text.split("\n### ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let name = title.trim().trim_matches('`');
        let body = body.split("\n## ").next().unwrap_or_default();
        if !reasons.contains(&name) {
            problems.push(format!("{CATALOGUE}: no reason is called {name:?}"));
        }
        if !seen.insert(name.to_owned()) {
            problems.push(format!("{CATALOGUE}: {name} has two sections"));
        }
        for part in ["**Cause:**", "**Cure:**"] {
            if !body.contains(part) {
                problems.push(format!("{CATALOGUE}: {name} has no {part}"));
            }
        }
    }
    for reason in reasons.iter().filter(|reason| !seen.contains(**reason)) {
        problems.push(format!("{CATALOGUE}: reason {reason} has no section"));
    }
    problems
}

/// Links to files that are not there.
fn broken_links(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap_or_default();
    let folder = page.parent().unwrap_or(Path::new("."));
    targets(&text)
        .into_iter()
        .filter(|target| !folder.join(target).exists())
        .map(|target| format!("{}: {target} is not there", page.display()))
        .collect()
}

/// The files that a page links to, relative to it.
fn targets(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with(['#', '/']))
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty() && !target.contains(char::is_whitespace))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_are_complete() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        assert_eq!(check(&root).err().unwrap_or_default(), [""; 0]);
    }

    #[test]
    fn gaps_in_the_catalogue_are_named() {
        let text = "# F\n\n### `A`\n**Cause:** x\n**Cure:** y\n\n### B\n**Cause:** x\n\n## Next\n**Cure:** z\n";
        let problems = catalogue_problems(text, &["A", "C"]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("no reason is called \"B\""));
        assert!(problems[1].contains("B has no **Cure:**"));
        assert!(problems[2].contains("reason C has no section"));
    }

    #[test]
    fn only_links_to_files_are_followed() {
        let text = "[a](b.md#x) [c](https://d) [e](#f) [g](h/i.yaml)";
        assert_eq!(targets(text), ["b.md", "h/i.yaml"]);
    }
}
