//! The goals beside what the last runs measured.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    figure::Figure::{
        self, CpuAll, CpuClient, CpuGateway, CpuGatewayReverse, LoadedP99, Reverse, RttP50, RttP99,
        Tcp1, Tcp4, Udp,
    },
    options::{
        Mode::{self, Gso, Pkt},
        Options,
    },
    scale::{self, FEW_RULES, MANY_RULES},
    shards,
};

const OURS: &str = "masque";
/// Ours without SRv6 behind the gateway.
const PLAIN: &str = "masque-plain";
/// How TCP runs.
const WAYS: [(Figure, &str); 3] = [(Tcp1, "one stream"), (Tcp4, "four"), (Reverse, "reverse")];
/// Fewer cores than these hold clients, two packet threads and workload one after the other.
const CORES_FOR_TWO_SHARDS: f64 = 4.0;

/// What the runs wrote, if they did.
struct Sources {
    table: Option<Value>,
    scale: Option<Value>,
    shards: Option<Value>,
}

/// On which side of its bound a figure must be.
#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

/// One line of the table.
struct Goal {
    what: String,
    bound: Bound,
    measured: Option<f64>,
    /// What a reader must know of the figure.
    note: &'static str,
}

impl Bound {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound}"),
            Self::AtMost(bound) => format!("≤ {bound}"),
        }
    }
}

impl Sources {
    fn read(options: &Options) -> Self {
        let read = |path: &Path| serde_json::from_str(&fs::read_to_string(path).ok()?).ok();
        Self {
            table: read(&options.json),
            scale: read(&options.json.with_file_name(scale::FILE)),
            shards: read(&options.json.with_file_name(shards::FILE)),
        }
    }

    /// The median of a figure of the table.
    fn median(&self, mode: Mode, name: &str, figure: Figure) -> Option<f64> {
        let modes = self.table.as_ref()?.get("modes")?;
        let figures = modes.get(mode.name())?.get(name)?.get("figures")?;
        figures.get(figure.key())?.get("median")?.as_f64()
    }

    fn ours(&self, mode: Mode, figure: Figure) -> Option<f64> {
        self.median(mode, OURS, figure)
    }

    fn ratio(&self, mode: Mode, peer: &str, figure: Figure) -> Option<f64> {
        self.ratio_of(mode, OURS, peer, figure)
    }

    fn ratio_of(&self, mode: Mode, one: &str, peer: &str, figure: Figure) -> Option<f64> {
        let other = self.median(mode, peer, figure).filter(|v| *v > 0.0)?;
        Some(self.median(mode, one, figure)? / other)
    }

    fn scale(&self, key: &str) -> Option<f64> {
        self.scale.as_ref()?.get("figures")?.get(key)?.as_f64()
    }

    fn shards(&self, key: &str) -> Option<f64> {
        self.shards.as_ref()?.get("figures")?.get(key)?.as_f64()
    }

    /// What the first release is to reach.
    fn first_release(&self) -> Vec<Goal> {
        let peers = [
            (Gso, "wireguard-go", 2.0),
            (Gso, "boringtun", 5.0),
            (Pkt, "wireguard-go", 3.0),
        ];
        let mut goals = self.faster_than(&peers);
        goals.extend([Gso, Pkt].map(|mode| self.added_at_idle(mode, 60.0)));
        goals.push(self.cpu_of_both(4.0));
        goals
    }

    /// The first of those like for like: nothing behind either tunnel, and SRv6 behind both. GRO is
    /// part of what our programs do, so the peer is without.
    fn like_for_like(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for (mode, factor) in [(Gso, 2.0), (Pkt, 3.0)] {
            for (one, peer) in [(PLAIN, "wireguard-go"), (OURS, "wireguard-go+srv6")] {
                goals.extend(WAYS.map(|(figure, way)| {
                    let what = format!("TCP {}, {one} ÷ {peer}, {way}", mode.name());
                    let measured = self.ratio_of(mode, one, peer, figure);
                    Goal::new(what, AtLeast(factor), measured)
                }));
            }
        }
        goals
    }

    /// All goals, in the order of the design.
    fn goals(&self) -> Vec<Goal> {
        let mut goals = self.throughput();
        goals.extend(self.cost_and_latency());
        goals.extend(self.many());
        goals
    }

    fn throughput(&self) -> Vec<Goal> {
        let mut goals = self.faster_than(&[
            (Gso, "wireguard-go", 3.0),
            (Gso, "boringtun", 8.0),
            (Pkt, "wireguard-go", 4.0),
            (Pkt, "seg6", 0.7),
            (Gso, "connect-ip-go", 20.0),
            (Pkt, "connect-ip-go", 20.0),
        ]);
        for mode in [Gso, Pkt] {
            let what = format!("CPU a GB {} ÷ connect-ip-go, all", mode.name());
            let measured = self.ratio(mode, "connect-ip-go", CpuAll);
            goals.push(Goal::new(what, AtMost(0.067), measured));
        }
        for mode in [Gso, Pkt] {
            let what = format!("64-byte UDP without loss {} ÷ wireguard-go", mode.name());
            let measured = self.ratio(mode, "wireguard-go", Udp);
            goals.push(Goal::new(what, AtLeast(6.0), measured));
        }
        goals
    }

    /// So many times the speed of a peer, each way.
    fn faster_than(&self, peers: &[(Mode, &str, f64)]) -> Vec<Goal> {
        let goal = |(mode, peer, factor): (Mode, &str, f64), (figure, way)| {
            let what = format!("TCP {} ÷ {peer}, {way}", mode.name());
            Goal::new(what, AtLeast(factor), self.ratio(mode, peer, figure))
        };
        let each = |peer| WAYS.map(|way| goal(peer, way));
        peers.iter().copied().flat_map(each).collect()
    }

    fn cpu_of_both(&self, bound: f64) -> Goal {
        let both = || Some(self.ours(Gso, CpuClient)? + self.ours(Gso, CpuGateway)?);
        let what = "CPU-s/GB gso, client and gateway";
        Goal::new(what, AtMost(bound), both())
    }

    fn added_at_idle(&self, mode: Mode, bound: f64) -> Goal {
        let plain = || self.median(mode, "plain", RttP50);
        let added = || Some(self.ours(mode, RttP50)? - plain()?);
        let what = format!("RTT {} over plain, p50, µs", mode.name());
        Goal::new(what, AtMost(bound), added())
    }

    fn cost_and_latency(&self) -> Vec<Goal> {
        let mut goals = vec![
            self.cpu_of_both(2.5),
            Goal::new(
                "CPU-s/GB gso, gateway",
                AtMost(1.2),
                self.ours(Gso, CpuGateway),
            ),
            Goal::new(
                "CPU-s/GB pkt, gateway",
                AtMost(2.5),
                self.ours(Pkt, CpuGateway),
            ),
            Goal::new(
                "CPU-s/GB pkt, gateway, reverse",
                AtMost(3.0),
                self.ours(Pkt, CpuGatewayReverse),
            ),
        ];
        for mode in [Gso, Pkt] {
            let name = mode.name();
            let p50 = self.ours(mode, RttP50);
            let tail = || Some(self.ours(mode, RttP99)? / p50.filter(|v| *v > 0.0)?);
            let loaded = self.ours(mode, LoadedP99).map(|micros| micros / 1e3);
            goals.extend([
                self.added_at_idle(mode, 45.0),
                Goal::new(format!("RTT {name}, p99 ÷ p50"), AtMost(3.0), tail()),
                Goal::new(
                    format!("RTT {name} beside four streams, p99, ms"),
                    AtMost(5.0),
                    loaded,
                ),
            ]);
        }
        goals
    }

    fn many(&self) -> Vec<Goal> {
        let edit = |name: &str| self.scale(&format!("edit_{name}_ms_{MANY_RULES}_rules"));
        let cores = self.shards.as_ref().and_then(|s| s.get("cores")?.as_f64());
        let note = match cores {
            Some(cores) if cores < CORES_FOR_TWO_SHARDS => {
                "clients and workload share the cores: what counts here is the next line"
            }
            _ => "",
        };
        let rules = format!("TCP with {MANY_RULES} rules ÷ {FEW_RULES}");
        vec![
            Goal {
                note,
                ..Goal::new(
                    "two shards ÷ one",
                    AtLeast(1.7),
                    self.shards("two_shards_ratio"),
                )
            },
            Goal {
                note: "1.7 of two cores leaves a sixth for sharing",
                ..Goal::new(
                    "gateway CPU a GB, two shards ÷ one",
                    AtMost(1.18),
                    self.shards("two_shards_cost_ratio"),
                )
            },
            Goal::new(
                "idle sessions up",
                AtLeast(10_000.0),
                self.scale("sessions_still_up"),
            ),
            Goal::new(
                "memory of an idle session, KiB",
                AtMost(29.3),
                self.scale("rss_kib_per_session"),
            ),
            Goal::new(
                "gateway CPU a GB beside them ÷ alone",
                AtMost(1.1),
                self.scale("gateway_cpu_ratio_many_sessions"),
            ),
            Goal::new(
                "gateway CPU of one set-up, ms",
                AtMost(0.5),
                self.scale("setup_gateway_cpu_ms"),
            ),
            Goal::new(
                "1,000 set-ups beside a transfer, s",
                AtMost(1.5),
                self.scale("setup_beside_transfer_seconds_per_1000"),
            ),
            Goal::new(
                "that transfer ÷ alone",
                AtLeast(0.9),
                self.scale("transfer_beside_setup_ratio"),
            ),
            Goal::new(rules, AtLeast(0.95), self.scale("many_rules_ratio")),
            Goal::new("edit to deny acts after, ms", AtMost(500.0), edit("deny")),
            Goal::new("edit to allow acts after, ms", AtMost(500.0), edit("allow")),
        ]
    }

    /// Which run each part is of.
    fn runs(&self) -> Vec<String> {
        let runs = [
            ("table", &self.table),
            ("scale", &self.scale),
            ("shards", &self.shards),
        ];
        let told = runs.into_iter().map(|(name, run)| match run {
            None => format!("- {name}: not run; `scripts/bench {name}`"),
            Some(run) => {
                let word = |key: &str| run.get(key).and_then(Value::as_str).unwrap_or("unknown");
                format!("- {name}: commit {}, {}", word("commit"), word("date"))
            }
        });
        told.collect()
    }
}

impl Goal {
    fn new(what: impl Into<String>, bound: Bound, measured: Option<f64>) -> Self {
        Self {
            what: what.into(),
            bound,
            measured,
            note: "",
        }
    }

    fn row(&self) -> String {
        let (value, word) = match self.measured {
            None => ("–".into(), "not measured"),
            Some(value) if self.bound.is_met(value) => (format!("{value:.2}"), "met"),
            Some(value) => (format!("{value:.2}"), "**missed**"),
        };
        let note = if self.note.is_empty() {
            String::new()
        } else {
            format!("; {}", self.note)
        };
        format!(
            "| {} | {} | {value} | {word}{note} |",
            self.what,
            self.bound.text()
        )
    }
}

/// Prints all goals with what the last runs of each mode measured.
pub(crate) fn print(options: &Options) {
    let sources = Sources::read(options);
    for (title, goals) in [
        ("Goals of the first release", sources.first_release()),
        (
            "For comparison, the same behind both tunnels",
            sources.like_for_like(),
        ),
        ("Goals", sources.goals()),
    ] {
        println!("\n{title}:\n\n| figure | goal | measured | |\n|---|---|---|---|");
        for goal in goals {
            println!("{}", goal.row());
        }
    }
    println!("\n{}", sources.runs().join("\n"));
    println!("- that an edit leaves others' packets alone: `tests/netns`, policy");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources() -> Sources {
        let cell = |median: f64| json!({"median": median});
        let ours = json!({"figures": {
            "tcp1_gbit_s": cell(6.0), "cpu_client_s_per_gb": cell(1.0),
            "cpu_gateway_s_per_gb": cell(1.25), "rtt_p50_us": cell(60.0), "rtt_p99_us": cell(90.0),
        }});
        let modes = json!({"gso": {
            "masque": ours,
            "wireguard-go": {"figures": {"tcp1_gbit_s": cell(2.0)}},
            "boringtun": {"figures": {"tcp1_gbit_s": cell(1.25)}},
            "masque-plain": {"figures": {"tcp1_gbit_s": cell(7.0)}},
            "plain": {"figures": {"rtt_p50_us": cell(50.0)}},
        }});
        Sources {
            table: Some(json!({"modes": modes, "commit": "abc", "date": "today"})),
            scale: Some(json!({"figures": {"sessions_still_up": 9_999.0}})),
            shards: Some(json!({"cores": 2, "figures": {"two_shards_ratio": 1.0}})),
        }
    }

    fn row(what: &str) -> String {
        let goals = sources().goals();
        let goal = goals.iter().find(|g| g.what == what);
        goal.unwrap_or_else(|| panic!("no goal {what}")).row()
    }

    #[test]
    fn tells_what_is_met_what_is_missed_and_what_was_not_measured() {
        for (what, end) in [
            ("TCP gso ÷ wireguard-go, one stream", "| ≥ 3 | 3.00 | met |"),
            ("TCP gso ÷ wireguard-go, four", "| ≥ 3 | – | not measured |"),
            ("CPU-s/GB gso, client and gateway", "| ≤ 2.5 | 2.25 | met |"),
            ("CPU-s/GB gso, gateway", "| ≤ 1.2 | 1.25 | **missed** |"),
            ("RTT gso over plain, p50, µs", "| ≤ 45 | 10.00 | met |"),
            ("RTT gso, p99 ÷ p50", "| ≤ 3 | 1.50 | met |"),
            ("idle sessions up", "| ≥ 10000 | 9999.00 | **missed** |"),
        ] {
            assert!(row(what).ends_with(end), "{}", row(what));
        }
        assert!(row("two shards ÷ one").contains("**missed**; clients"));
    }

    #[test]
    fn the_first_release_has_goals_of_its_own() {
        let mut goals = sources().first_release();
        goals.extend(sources().like_for_like());
        let rows: Vec<_> = goals.iter().map(Goal::row).collect();
        for row in [
            "| TCP gso ÷ wireguard-go, one stream | ≥ 2 | 3.00 | met |",
            "| TCP gso ÷ boringtun, one stream | ≥ 5 | 4.80 | **missed** |",
            "| TCP pkt, masque ÷ wireguard-go+srv6, four | ≥ 3 | – | not measured |",
            "| TCP gso, masque-plain ÷ wireguard-go, one stream | ≥ 2 | 3.50 | met |",
            "| RTT gso over plain, p50, µs | ≤ 60 | 10.00 | met |",
            "| CPU-s/GB gso, client and gateway | ≤ 4 | 2.25 | met |",
        ] {
            assert!(rows.iter().any(|one| one == row), "{row} in {rows:#?}");
        }
    }

    #[test]
    fn names_the_runs_and_how_to_get_those_that_lack() {
        let mut sources = sources();
        sources.scale = None;
        let runs = sources.runs();
        assert_eq!(runs[0], "- table: commit abc, today");
        assert_eq!(runs[1], "- scale: not run; `scripts/bench scale`");
    }
}
