//! What the environment asks for.

use std::{env, path::PathBuf, str::FromStr, time::Duration};

use crate::{failure::Failure, figure::tcp};

/// Fewest rounds of a run that is meant to be quoted.
const ROUNDS: u32 = 5;
/// Length of one TCP run.
const TCP_SECONDS: u32 = 3;
/// Linux's own default. A machine may have another, which would be measured with the tunnels.
const CONGESTION: &str = "cubic";
/// What the goals say.
const SESSIONS: u32 = 10_000;
/// A descriptor each, and an address of the pool.
const SESSIONS_MAX: u32 = 15_000;
/// More rounds than this is a mistake.
const ROUNDS_MAX: u32 = 1000;

/// Veth offloads on, or off on every link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// Super-packets cross the wire whole, as on a host whose network card segments and merges.
    Gso,
    /// Every frame is at most one MTU: the worst case, and these cores carry the wire, too.
    Pkt,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Gso, Self::Pkt];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gso => "gso",
            Self::Pkt => "pkt",
        }
    }
}

/// All that can be chosen. `BENCH_QUICK=1` changes the defaults to one short round, for a smoke test.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `BENCH_ROUNDS`.
    pub(crate) rounds: u32,
    /// `BENCH_ONLY`: names of configurations.
    pub(crate) only: Option<Vec<String>>,
    /// `BENCH_MODES`: `gso`, `pkt`, or both.
    pub(crate) modes: Vec<Mode>,
    /// Length of one TCP run.
    pub(crate) tcp: Duration,
    /// `BENCH_TCP`: congestion control of the TCP runs.
    pub(crate) congestion: String,
    /// Length of one ping-pong.
    pub(crate) ping: Duration,
    /// Length of one UDP trial.
    pub(crate) udp: Duration,
    /// How long to wait for the machine to be idle before one measurement.
    pub(crate) idle_wait: Duration,
    /// How often a disturbed measurement is repeated.
    pub(crate) repeats: u32,
    /// `BENCH_RULES`: rules of the policy that our gateway enforces.
    pub(crate) rules: u32,
    /// `BENCH_SESSIONS`: how many clients `scale` opens.
    pub(crate) sessions: u32,
    /// `BENCH_STEPS`: which measurements of the table; all by default.
    pub(crate) steps: Option<Vec<String>>,
    /// `MASQUE_PEERS`: where wireguard-go and boringtun are, with or without a `bin` below.
    pub(crate) peers: PathBuf,
    /// `BENCH_PROGRAMS`: where masque-gateway and datum-connect are; beside this program by default.
    pub(crate) binaries: PathBuf,
    /// Logs and configuration of this run; removed afterwards unless `BENCH_KEEP=1`.
    pub(crate) work: PathBuf,
    /// Where the figures go.
    pub(crate) json: PathBuf,
}

impl Options {
    pub(crate) fn from_env() -> Result<Self, Failure> {
        let exe = env::current_exe().map_err(Failure::io("own path"))?;
        let binaries = exe.parent().map(PathBuf::from).unwrap_or_default();
        let target = binaries.parent().map(PathBuf::from).unwrap_or_default();
        let quick = number("BENCH_QUICK", 0)? != 0;
        let seconds = number("BENCH_SECONDS", if quick { 1 } else { TCP_SECONDS })?;
        let rounds = number("BENCH_ROUNDS", if quick { 1 } else { ROUNDS })?.clamp(1, ROUNDS_MAX);
        let congestion = env::var("BENCH_TCP").unwrap_or_else(|_| CONGESTION.into());
        tcp::check_congestion(&congestion)?;
        let short = Duration::from_millis(if quick { 300 } else { 1000 });
        Ok(Self {
            rounds,
            only: words("BENCH_ONLY"),
            modes: modes()?,
            tcp: Duration::from_secs(seconds.max(1).into()),
            congestion,
            ping: short,
            udp: short / 2,
            idle_wait: Duration::from_secs(
                number("BENCH_IDLE_WAIT", if quick { 0 } else { 10 })?.into(),
            ),
            repeats: number("BENCH_REPEATS", if quick { 0 } else { 2 })?,
            rules: number("BENCH_RULES", 1000)?,
            sessions: number("BENCH_SESSIONS", if quick { 50 } else { SESSIONS })?
                .clamp(2, SESSIONS_MAX),
            steps: words("BENCH_STEPS"),
            peers: env::var_os("MASQUE_PEERS").map_or_else(|| target.join("peers"), PathBuf::from),
            binaries: env::var_os("BENCH_PROGRAMS").map_or(binaries, PathBuf::from),
            work: target.join(format!("bench/run-{}", std::process::id())),
            json: target.join("bench/latest.json"),
        })
    }

    /// Whether a configuration was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| only.iter().any(|o| o == name))
    }
}

fn modes() -> Result<Vec<Mode>, Failure> {
    let Some(names) = words("BENCH_MODES") else {
        return Ok(Mode::ALL.to_vec());
    };
    let parse = |name: &String| {
        let known = Mode::ALL.into_iter().find(|m| m.name() == name);
        known.ok_or_else(|| Failure::Usage(format!("BENCH_MODES: no mode {name:?}; gso, pkt")))
    };
    names.iter().map(parse).collect()
}

fn words(name: &str) -> Option<Vec<String>> {
    let text = env::var(name).ok()?;
    let words: Vec<String> = text
        .split([',', ' '])
        .filter(|w| !w.is_empty())
        .map(Into::into)
        .collect();
    (!words.is_empty()).then_some(words)
}

fn number(name: &str, otherwise: u32) -> Result<u32, Failure> {
    match env::var(name) {
        Err(_) => Ok(otherwise),
        Ok(text) => u32::from_str(text.trim())
            .map_err(|_| Failure::Usage(format!("{name}: {text:?} is not a number"))),
    }
}
