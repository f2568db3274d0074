//! Manifests: read, compile, compile again.

use masque_controller::{Options, compile, manifests};

/// Files are separated by this line.
const NEXT_FILE: &str = "\n# next file\n";

pub(crate) fn run(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let mut files: Vec<(String, String)> = text
        .split(NEXT_FILE)
        .take(4)
        .enumerate()
        .map(|(number, text)| (format!("{number}.yaml"), text.to_owned()))
        .collect();
    let read = manifests::parse(&files);
    files.reverse();
    let again = manifests::parse(&files);
    assert_eq!(read.problems, again.problems);
    for problem in &read.problems {
        assert!(!problem.message.is_empty());
    }
    let options = Options::standalone();
    let compiled = compile(&read.resources, 1_800_000_000, &options, &[]);
    let other = compile(&again.resources, 1_800_000_000, &options, &[]);
    assert_eq!(compiled, other);
    let recompiled = compile(
        &read.resources,
        1_800_000_000,
        &options,
        &compiled.snapshots,
    );
    assert_eq!(recompiled.snapshots, compiled.snapshots);
    let _ = compile(&read.resources, 1_800_000_000, &Options::default(), &[]);
    !compiled.snapshots.is_empty()
}
