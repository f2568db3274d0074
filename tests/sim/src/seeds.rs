//! Many seeds of one scenario, on all cores.
#![expect(clippy::print_stderr, reason = "a failing seed must be seen")]

use std::{
    any::Any,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Seeds of one run of a scenario; `SIM_SEEDS` asks for more or fewer.
pub const SEEDS: u64 = 2000;

/// The seeds of this run: `SIM_SEEDS` of them from `SIM_FIRST`, 1 to [`SEEDS`] unless told
/// otherwise.
pub fn seeds() -> Range<u64> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().expect("SIM_FIRST and SIM_SEEDS are numbers"))
    };
    let first: u64 = number("SIM_FIRST").unwrap_or(1);
    let count: u64 = number("SIM_SEEDS").unwrap_or(SEEDS);
    first..first + count
}

/// Runs `scenario` for every seed and names the lowest one that was seen to fail.
///
/// # Panics
/// As the scenario did with that seed.
pub fn for_each_seed(name: &str, scenario: impl Fn(u64) + Sync) {
    if let Some((seed, panic)) = first_failure(seeds(), scenario) {
        eprintln!("{name} fails with seed {seed}: SIM_FIRST={seed} SIM_SEEDS=1 repeats it");
        resume_unwind(panic);
    }
}

fn first_failure(
    seeds: Range<u64>,
    scenario: impl Fn(u64) + Sync,
) -> Option<(u64, Box<dyn Any + Send>)> {
    let next = AtomicU64::new(seeds.start);
    let failure = Mutex::new(None);
    let work = || {
        while failure.lock().unwrap().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
                let mut first = failure.lock().unwrap();
                if first.as_ref().is_none_or(|(former, _)| seed < *former) {
                    *first = Some((seed, panic));
                }
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    failure.into_inner().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_runs_once_and_the_failing_one_is_named() {
        let ran = Mutex::new(Vec::new());
        assert!(first_failure(5..105, |seed| ran.lock().unwrap().push(seed)).is_none());
        let mut ran = ran.into_inner().unwrap();
        ran.sort_unstable();
        assert_eq!(ran, (5..105).collect::<Vec<_>>());

        let failure = first_failure(1..1000, |seed| assert_ne!(seed, 77));
        assert_eq!(failure.map(|(seed, _)| seed), Some(77));
    }
}
