//! Who used the processors between two looks.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use nix::unistd::{SysconfVar, sysconf};

use crate::{failure::Failure, interrupt};

/// A measurement with more foreign work than this share of all cores is repeated.
pub(crate) const FOREIGN_SHARE_MAX: f64 = 0.05;
/// How long one look for idleness takes.
const IDLE_LOOK: Duration = Duration::from_millis(200);
/// Of a process whose parent it is, the kernel makes its threads.
const KTHREADD: u32 = 2;

/// Clock ticks used so far, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    at: Instant,
    /// All cores: user, nice, system, irq, softirq.
    busy: u64,
    /// Taken by other guests of the host.
    steal: u64,
    /// This process and the children it has waited for.
    own: u64,
    /// Living children and kernel threads, by pid.
    others: BTreeMap<u32, u64>,
}

/// What happened between two looks. Times are in seconds.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// Of all cores together.
    pub(crate) busy: f64,
    /// By what is not this run and not the kernel, over all there was, 0 to 1.
    pub(crate) foreign_share: f64,
    by_pid: BTreeMap<u32, f64>,
}

impl Look {
    pub(crate) fn now() -> Result<Self, Failure> {
        let stat = fs::read_to_string("/proc/stat").map_err(Failure::io("/proc/stat"))?;
        let mut look = Self {
            at: Instant::now(),
            busy: 0,
            steal: 0,
            own: 0,
            others: BTreeMap::new(),
        };
        (look.busy, look.steal) = machine_ticks(&stat)
            .ok_or_else(|| Failure::Machine("/proc/stat has no cpu line".into()))?;
        let me = std::process::id();
        for entry in fs::read_dir("/proc")
            .map_err(Failure::io("/proc"))?
            .flatten()
        {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let text = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let Some(ticks) = ProcessTicks::parse(&text) else {
                continue;
            };
            if pid == me {
                look.own = ticks.itself + ticks.waited_for;
            } else if ticks.parent == me {
                look.others.insert(pid, ticks.itself + ticks.waited_for);
            } else if ticks.parent == KTHREADD {
                look.others.insert(pid, ticks.itself);
            }
        }
        Ok(look)
    }

    /// What happened since.
    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        let now = Self::now()?;
        let second = ticks_per_second();
        let seconds = |ticks: u64| to_f64(ticks) / second;
        let wall = now.at.duration_since(self.at).as_secs_f64();
        let before: u64 = self.own + self.others.values().sum::<u64>();
        let after: u64 = now.own + now.others.values().sum::<u64>();
        let busy = now.busy.saturating_sub(self.busy);
        let steal = now.steal.saturating_sub(self.steal);
        let foreign = busy.saturating_sub(after.saturating_sub(before)) + steal;
        let by_pid = now
            .others
            .iter()
            .filter_map(|(pid, ticks)| {
                Some((*pid, seconds(ticks.saturating_sub(*self.others.get(pid)?))))
            })
            .collect();
        Ok(Usage {
            busy: seconds(busy),
            foreign_share: seconds(foreign) / (wall * cores()).max(f64::MIN_POSITIVE),
            by_pid,
        })
    }
}

impl Usage {
    /// Seconds that one process used, with its kernel side.
    pub(crate) fn process(&self, pid: u32) -> f64 {
        self.by_pid.get(&pid).copied().unwrap_or_default()
    }

    pub(crate) fn disturbed(&self) -> bool {
        self.foreign_share > FOREIGN_SHARE_MAX
    }
}

/// Waits until nobody else uses the processors, at most `within`. Whether it came to that.
pub(crate) fn wait_for_idle(within: Duration) -> Result<bool, Failure> {
    let deadline = Instant::now() + within;
    loop {
        interrupt::check()?;
        let look = Look::now()?;
        thread::sleep(IDLE_LOOK);
        if !look.usage()?.disturbed() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

pub(crate) fn cores() -> f64 {
    thread::available_parallelism().map_or(1.0, |n| to_f64(n.get() as u64))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "ticks and cores are far below 2^52"
)]
fn to_f64(n: u64) -> f64 {
    n as f64
}

fn ticks_per_second() -> f64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    ticks
        .and_then(|t| u32::try_from(t).ok())
        .map_or(100.0, f64::from)
}

/// Busy and stolen ticks of the line `cpu` (proc(5)): user nice system idle iowait irq softirq steal.
fn machine_ticks(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find(|l| l.starts_with("cpu "))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .map(|&i| fields.get(i).copied().unwrap_or_default())
        .sum();
    (fields.len() >= 4).then(|| (busy, fields.get(7).copied().unwrap_or_default()))
}

/// Of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct ProcessTicks {
    parent: u32,
    itself: u64,
    waited_for: u64,
}

impl ProcessTicks {
    /// The name, field 2, is in brackets and may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok());
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            itself: ticks(11)? + ticks(12)?,
            waited_for: ticks(13)? + ticks(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_files_of_the_kernel() {
        let stat = "cpu  10 1 20 900 50 3 4 7 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(machine_ticks(stat), Some((38, 7)));
        let process = "42 (a ) b) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 30 4 20 0 1 0 55";
        let ticks = ProcessTicks {
            parent: 7,
            itself: 120,
            waited_for: 34,
        };
        assert_eq!(ProcessTicks::parse(process), Some(ticks));
        assert_eq!(ProcessTicks::parse("42 (x"), None);
    }

    #[test]
    fn work_of_this_process_is_not_foreign() {
        let look = Look::now().unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(fs::read_to_string("/proc/stat").unwrap());
        }
        let usage = look.usage().unwrap();
        assert!(usage.busy >= 0.2, "{usage:?}");
        let now = Look::now().unwrap();
        assert!(now.own > look.own);
    }
}
