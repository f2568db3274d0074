//! Manifests: files of YAML or JSON, as typed [`Resources`] with the line of every field.
//!
//! A document with a problem is left out and the others keep working. Unknown fields are problems,
//! because a field that is silently ignored may be the one that was meant to restrict something.

use std::{collections::BTreeMap, fs, io, path::Path};

use masque_api::{ConditionType, Reason};
use masque_model::ObjectName;

use crate::{Kind, Location, Problem, Resources, Severity};

mod document;
mod pattern;
mod schema;
mod schemas;
mod yaml;

/// Bytes of one file.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// Files of one folder.
pub const MAX_FILES: usize = 1024;

/// Bytes of all files together.
pub const MAX_TOTAL_BYTES: u64 = 64 << 20;

/// Documents of all files together.
pub const MAX_DOCUMENTS: usize = 50_000;

/// Problems that are kept; one more says how many were dropped.
pub const MAX_PROBLEMS: usize = 1000;

/// Names of files that are read end in one of these.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// What was read, and what was wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// The objects without problems.
    pub resources: Resources,
    /// The problems, by file and line.
    pub problems: Vec<Problem>,
    /// Where each object stood, to tell of duplicates.
    places: BTreeMap<(Kind, ObjectName), Location>,
}

/// Reads `*.yaml`, `*.yml` and `*.json` of a folder, in the order of their names; hidden files and
/// subfolders (such as `secrets/`) are left alone. Errors of the file system are problems, too.
pub fn read_folder(path: &Path) -> Manifests {
    let mut unread = Vec::new();
    let mut files = Vec::new();
    match file_names(path) {
        Ok(names) => {
            for name in names {
                match read_file(&path.join(&name)) {
                    Ok(text) => files.push((name, text)),
                    Err(problem) => unread.push(file_problem(&name, problem)),
                }
            }
        }
        Err(error) => {
            let message = format!("cannot read the folder: {error}");
            unread.push(file_problem(
                &path.display().to_string(),
                (message, String::new()),
            ));
        }
    }
    let mut manifests = parse(&files);
    manifests.resources.incomplete |= !unread.is_empty();
    manifests.problems.extend(unread);
    settle(&mut manifests.problems);
    manifests
}

/// Parses files given as (name, text). The order of the files has no meaning; they are read in the
/// order of their names.
pub fn parse(files: &[(String, String)]) -> Manifests {
    let mut manifests = Manifests::default();
    let mut files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    files.sort_unstable();
    let (mut documents, mut bytes) = (0, 0_u64);
    for (number, (name, text)) in files.into_iter().enumerate() {
        bytes = bytes.saturating_add(text.len() as u64);
        let too_much = if text.len() as u64 > MAX_FILE_BYTES {
            Some(format!("the file has more than {MAX_FILE_BYTES} bytes"))
        } else if number >= MAX_FILES {
            Some(format!("there are more than {MAX_FILES} files"))
        } else if bytes > MAX_TOTAL_BYTES {
            Some(format!(
                "the files have more than {MAX_TOTAL_BYTES} bytes together"
            ))
        } else {
            None
        };
        if let Some(message) = too_much {
            let hint = "split it, or use fewer resources".to_owned();
            manifests.problems.push(file_problem(name, (message, hint)));
            manifests.resources.incomplete = true;
            continue;
        }
        for (line, text) in yaml::split_documents(text) {
            documents += 1;
            if documents > MAX_DOCUMENTS {
                let message = format!("there are more than {MAX_DOCUMENTS} documents");
                manifests
                    .problems
                    .push(file_problem(name, (message, String::new())));
                manifests.resources.incomplete = true;
                break;
            }
            document::read(name, line, text, &mut manifests);
        }
    }
    settle(&mut manifests.problems);
    manifests
}

/// Sorts problems and bounds their number.
pub(crate) fn settle(problems: &mut Vec<Problem>) {
    problems.sort();
    problems.dedup();
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(Problem {
            location: None,
            object: None,
            field: String::new(),
            severity: Severity::Warning,
            condition: ConditionType::Accepted,
            reason: Reason::Invalid,
            message: format!("{more} more problems"),
            hint: "repair the first ones first".to_owned(),
        });
    }
}

fn file_names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // A name that is not UTF-8 is not one of ours.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let extension = Path::new(&name)
            .extension()
            .and_then(|extension| extension.to_str());
        let ours = extension.is_some_and(|extension| EXTENSIONS.contains(&extension));
        // Mounted ConfigMaps are links, which `metadata` follows.
        if ours && !name.starts_with('.') && fs::metadata(entry.path())?.is_file() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn read_file(path: &Path) -> Result<String, (String, String)> {
    let unreadable = |error: io::Error| (format!("cannot read the file: {error}"), String::new());
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES {
        let message = format!("the file has {bytes} bytes, at most {MAX_FILE_BYTES} are read");
        return Err((message, "split it".to_owned()));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("byte {} is not UTF-8", error.utf8_error().valid_up_to());
        (message, "save the file as UTF-8".to_owned())
    })
}

fn file_problem(file: &str, (message, hint): (String, String)) -> Problem {
    Problem {
        location: Some(Location {
            file: file.to_owned(),
            line: 0,
        }),
        object: None,
        field: String::new(),
        severity: Severity::Error,
        condition: ConditionType::Accepted,
        reason: Reason::Invalid,
        message,
        hint,
    }
}

#[cfg(test)]
mod tests;
