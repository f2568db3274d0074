//! Every file of the fuzzing corpus, on stable.
#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

use std::{fs, panic, path::PathBuf, time::Instant};

use masque_replay::TARGETS;

/// Of a hundred files of a target, at least so many reach what the target is about.
const MIN_REACHING_PERCENT: usize = 5;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort_unstable();
    files
}

#[test]
fn every_file_of_the_corpus_passes() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        let start = Instant::now();
        let (mut reached, mut broken) = (0, Vec::new());
        for file in &files {
            let data = fs::read(file).unwrap();
            match panic::catch_unwind(|| target(&data)) {
                Ok(true) => reached += 1,
                Ok(false) => {}
                Err(_) => broken.push(file),
            }
        }
        println!(
            "{name}: {} files, {reached} reach the target, {} ms",
            files.len(),
            start.elapsed().as_millis()
        );
        assert!(broken.is_empty(), "{name}: {broken:?}");
        assert!(
            reached * 100 >= files.len() * MIN_REACHING_PERCENT && reached >= 10,
            "{name}: only {reached} of {} files reach it",
            files.len()
        );
    }
}
