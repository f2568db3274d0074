//! What the environment asks for.

use std::{
    env,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use crate::failure::Failure;

/// The largest fleet: the operator takes 20,000 attachments for one ingress point.
const MAX_ATTACHMENTS: u32 = 100_000;
/// Each ingress point is a namespace with a pool `10.N.0.0/16`.
const MAX_POINTS: u32 = 100;
/// An ingress point takes 4,096 rules.
const MAX_POLICIES: u32 = 4_000;
/// A figure of percentiles needs some.
const MAX_EDITS: u32 = 10_000;

/// All that can be chosen. `BENCH_QUICK=1` changes the defaults to a smoke test of a minute.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `BENCH_SIZES`: attachments, all ingress points together; one run each.
    pub(crate) sizes: Vec<u32>,
    /// `BENCH_POINTS`: ingress points, each with a VPC, a namespace and a pod of its own.
    pub(crate) points: u32,
    /// `BENCH_POLICIES`: policies, all ingress points together.
    pub(crate) policies: u32,
    /// `BENCH_EDITS`: policy edits, one after another.
    pub(crate) edits: u32,
    /// `BENCH_REST`, in seconds: how long nothing happens while writes are counted, and how long
    /// memory has to come back after everything was deleted.
    pub(crate) rest: Duration,
    /// `BENCH_LIMIT`, in seconds: a wait that takes longer fails the run.
    pub(crate) limit: Duration,
    /// `MASQUE_BIN`, or where this program is: the folder of masque-operator.
    pub(crate) programs: PathBuf,
    /// The project.
    pub(crate) root: PathBuf,
    /// Where figures and logs go.
    pub(crate) results: PathBuf,
}

impl Options {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        let exe = env::current_exe().map_err(Failure::io("own path"))?;
        let beside = exe.parent().map(PathBuf::from).unwrap_or_default();
        let programs = env::var_os("MASQUE_BIN").map_or_else(|| beside.clone(), PathBuf::from);
        let target = beside.parent().map(PathBuf::from).unwrap_or_default();
        let quick = number("BENCH_QUICK", 0)? != 0;
        let seconds = |name, otherwise| -> Result<Duration, Failure> {
            Ok(Duration::from_secs(number(name, otherwise)?.max(1).into()))
        };
        Ok(Self {
            sizes: sizes(if quick { &[100] } else { &[1_000, 10_000] })?,
            points: number("BENCH_POINTS", 10)?.clamp(1, MAX_POINTS),
            policies: number("BENCH_POLICIES", if quick { 100 } else { 1_000 })?
                .clamp(1, MAX_POLICIES),
            edits: number("BENCH_EDITS", if quick { 10 } else { 100 })?.clamp(1, MAX_EDITS),
            rest: seconds("BENCH_REST", if quick { 5 } else { 60 })?,
            limit: seconds("BENCH_LIMIT", 600)?,
            programs,
            root: Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
            results: target.join("bench"),
        })
    }
}

fn sizes(otherwise: &[u32]) -> Result<Vec<u32>, Failure> {
    let Ok(text) = env::var("BENCH_SIZES") else {
        return Ok(otherwise.to_vec());
    };
    let words = text.split([',', ' ']).filter(|word| !word.is_empty());
    let sizes: Vec<u32> = words
        .map(|word| {
            let size = u32::from_str(word).ok();
            size.filter(|size| (1..=MAX_ATTACHMENTS).contains(size))
                .ok_or_else(|| {
                    Failure::Usage(format!(
                        "BENCH_SIZES: {word:?} is not a number from 1 to {MAX_ATTACHMENTS}"
                    ))
                })
        })
        .collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        return Err(Failure::Usage("BENCH_SIZES is empty".to_owned()));
    }
    Ok(sizes)
}

fn number(name: &str, otherwise: u32) -> Result<u32, Failure> {
    match env::var(name) {
        Err(_) => Ok(otherwise),
        Ok(text) => u32::from_str(text.trim())
            .map_err(|_| Failure::Usage(format!("{name}: {text:?} is not a number"))),
    }
}
