//! What the tree's text must not hold: unfinished marks, overlong files, machine paths.

use std::{path::Path, process::Command};

/// One noun, one file; a longer one is split.
const MAX_FILE_LINES: usize = 600;

/// Marks of unfinished work, written so that this file does not hold them itself.
const MARKS: [&str; 5] = [
    concat!("to", "do!("),
    concat!("un", "implemented!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
];

/// Every problem, as `file:line: sentence`.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for file in tracked(root) {
        if file.starts_with("tests/fuzz/corpus") || file.ends_with(".lock") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root.join(&file)) else {
            continue;
        };
        let lines = text.lines().count();
        if file.ends_with(".rs") && lines > MAX_FILE_LINES {
            problems.push(format!(
                "{file}: {lines} lines; {MAX_FILE_LINES} is the bound"
            ));
        }
        if file.ends_with("/mod.rs") {
            problems.push(format!("{file}: name the module's file after the module"));
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = MARKS.iter().find(|mark| line.contains(**mark)) {
                problems.push(format!("{file}:{}: unfinished mark {mark:?}", number + 1));
            }
        }
    }
    problems
}

fn tracked(root: &Path) -> Vec<String> {
    Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files"])
        .output()
        .map(|o| {
            String::from_utf8_lossy(&o.stdout)
                .lines()
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default()
}
