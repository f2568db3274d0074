//! The figures of a run, as tables and as JSON.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use serde_json::{Value, json};

use crate::{
    cpu::FOREIGN_SHARE_MAX,
    failure::Failure,
    figure::Figure,
    machine::Machine,
    options::{Mode, Options},
    stats::Samples,
    tunnel::Tunnels,
};

/// What ours is compared with, and what a reader looks for first.
const OURS: &str = "masque";

/// Everything measured so far.
#[derive(Debug)]
pub(crate) struct Results {
    machine: Machine,
    tunnels: Tunnels,
    tcp_seconds: u64,
    congestion: String,
    pub(crate) rounds_done: u32,
    cells: BTreeMap<(Mode, &'static str, Figure), Samples>,
    measurements: u32,
    /// Measurements that others' work disturbed to the end, of each mode and configuration.
    disturbed: BTreeMap<(Mode, &'static str), u32>,
    failures: Vec<String>,
}

impl Results {
    pub(crate) fn new(options: &Options, tunnels: &Tunnels) -> Self {
        Self {
            machine: Machine::describe(),
            tunnels: tunnels.clone(),
            tcp_seconds: options.tcp.as_secs(),
            congestion: options.congestion.clone(),
            rounds_done: 0,
            cells: BTreeMap::new(),
            measurements: 0,
            disturbed: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn any(&self) -> bool {
        !self.cells.is_empty() || !self.failures.is_empty()
    }

    pub(crate) fn add(
        &mut self,
        mode: Mode,
        name: &'static str,
        figures: &[(Figure, f64)],
        foreign_share: f64,
    ) {
        self.measurements += 1;
        if foreign_share > FOREIGN_SHARE_MAX {
            *self.disturbed.entry((mode, name)).or_default() += 1;
        }
        for &(figure, value) in figures {
            self.cells
                .entry((mode, name, figure))
                .or_default()
                .push(value);
        }
    }

    pub(crate) fn fail(&mut self, mode: Mode, name: &str, what: String) {
        self.failures
            .push(format!("{}, {name}: {what}", mode.name()));
    }

    fn cell(&self, mode: Mode, name: &'static str, figure: Figure) -> Option<&Samples> {
        self.cells.get(&(mode, name, figure))
    }

    fn median(&self, mode: Mode, name: &'static str, figure: Figure) -> Option<f64> {
        self.cell(mode, name, figure)?.median()
    }

    /// Ours over another's, of medians.
    fn ratio(&self, mode: Mode, other: &'static str, figure: Figure) -> Option<f64> {
        let other = self.median(mode, other, figure).filter(|m| *m > 0.0)?;
        Some(self.median(mode, OURS, figure)? / other)
    }

    fn modes(&self) -> Vec<Mode> {
        let there = |mode: &Mode| self.cells.keys().any(|(m, ..)| m == mode);
        Mode::ALL.into_iter().filter(there).collect()
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tunnels.up.iter().map(|t| t.name)
    }
}

/// The tables for a terminal and for docs/performance.md (Markdown).
pub(crate) fn text(results: &Results) -> String {
    let mut out = String::new();
    let machine = &results.machine;
    let _ = writeln!(
        out,
        "\n{} · {} cores · {} GiB · kernel {} · commit {} · {}",
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.commit,
        machine.date
    );
    let _ = writeln!(
        out,
        "{} round(s), TCP ({}) runs of {} s; median (min–max). cpu: seconds of processor per gigabyte; \"all\" includes iperf3 and the kernel.",
        results.rounds_done, results.congestion, results.tcp_seconds
    );
    for mode in results.modes() {
        let _ = writeln!(out, "\n### {}\n", mode.name());
        table(&mut out, "", results.names(), |name, figure| {
            results.cell(mode, name, figure).map(cell_text)
        });
        if results.median(mode, OURS, Figure::Tcp1).is_some() && results.tunnels.up.len() > 1 {
            let _ = writeln!(out, "\n{OURS} ÷ other, ratio of medians of this run:\n");
            table(
                &mut out,
                "÷ ",
                results.names().filter(|n| *n != OURS),
                |name, figure| results.ratio(mode, name, figure).map(|r| format!("{r:.2}")),
            );
        }
    }
    notes(&mut out, results);
    out
}

fn table(
    out: &mut String,
    prefix: &str,
    names: impl Iterator<Item = &'static str>,
    cell: impl Fn(&'static str, Figure) -> Option<String>,
) {
    let mut head = String::from("| |");
    let mut rule = String::from("|---|");
    for figure in Figure::ALL {
        let (title, unit) = figure.title();
        let _ = write!(head, " {title}, {unit} |");
        rule.push_str("---|");
    }
    let _ = writeln!(out, "{head}\n{rule}");
    for name in names {
        let mut row = format!("| {prefix}{name} |");
        for figure in Figure::ALL {
            let _ = write!(
                row,
                " {} |",
                cell(name, figure).unwrap_or_else(|| "–".into())
            );
        }
        let _ = writeln!(out, "{row}");
    }
}

fn cell_text(samples: &Samples) -> String {
    let (Some(median), Some(min), Some(max)) = (samples.median(), samples.min(), samples.max())
    else {
        return "–".into();
    };
    if samples.values().len() < 2 {
        return short(median);
    }
    format!("{} ({}–{})", short(median), short(min), short(max))
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn notes(out: &mut String, results: &Results) {
    let _ = writeln!(out);
    for tunnel in &results.tunnels.up {
        let _ = writeln!(out, "- {}: {}", tunnel.name, tunnel.about);
    }
    for (name, why) in &results.tunnels.skipped {
        let _ = writeln!(out, "- SKIPPED {name}: {why}");
    }
    for failure in &results.failures {
        let _ = writeln!(out, "- FAILED {failure}");
    }
    let disturbed: u32 = results.disturbed.values().sum();
    let _ = writeln!(
        out,
        "- {disturbed} of {} measurements were disturbed: others used more than {:.0} % of the cores, also when repeated",
        results.measurements,
        FOREIGN_SHARE_MAX * 100.0
    );
}

/// Writes everything, with every sample.
pub(crate) fn write_json(results: &Results, path: &Path) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Failure::file(folder))?;
    }
    let text = format!("{:#}\n", to_json(results));
    fs::write(path, text).map_err(Failure::file(path))
}

fn to_json(results: &Results) -> Value {
    let mut modes = serde_json::Map::new();
    for mode in results.modes() {
        let mut configurations = serde_json::Map::new();
        for name in results.names() {
            configurations.insert(name.into(), configuration(results, mode, name));
        }
        modes.insert(mode.name().into(), configurations.into());
    }
    let machine = &results.machine;
    let skipped = results
        .tunnels
        .skipped
        .iter()
        .map(|(n, w)| json!({"name": n, "reason": w}));
    json!({
        "machine": {
            "processor": machine.processor,
            "cores": machine.cores,
            "memory_gib": machine.memory_gib,
            "kernel": machine.kernel,
        },
        "commit": machine.commit,
        "date": machine.date,
        "rounds": results.rounds_done,
        "tcp_seconds": results.tcp_seconds,
        "tcp_congestion_control": results.congestion,
        "about": results.tunnels.up.iter().map(|t| (t.name, t.about.clone())).collect::<BTreeMap<_, _>>(),
        "skipped": skipped.collect::<Vec<_>>(),
        "failures": results.failures,
        "measurements": results.measurements,
        "modes": modes,
    })
}

fn configuration(results: &Results, mode: Mode, name: &'static str) -> Value {
    let mut figures = serde_json::Map::new();
    for figure in Figure::ALL {
        let Some(samples) = results.cell(mode, name, figure) else {
            continue;
        };
        let mut value = json!({
            "min": samples.min(),
            "median": samples.median(),
            "max": samples.max(),
            "samples": samples.values(),
        });
        if name != OURS
            && let Some(ratio) = results.ratio(mode, name, figure)
        {
            value["masque_ratio"] = ratio.into();
        }
        figures.insert(figure.key().into(), value);
    }
    let disturbed = results
        .disturbed
        .get(&(mode, name))
        .copied()
        .unwrap_or_default();
    json!({"figures": figures, "disturbed": disturbed})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::Tunnel;

    fn results() -> Results {
        let tunnel = |name| Tunnel {
            name,
            target: std::net::Ipv4Addr::LOCALHOST,
            client: None,
            gateway: None,
            merging: crate::rig::Merging::default(),
            way_back: |_| (),
            about: String::new(),
        };
        let mut results = Results {
            machine: Machine::describe(),
            tunnels: Tunnels {
                up: vec![tunnel("plain"), tunnel(OURS)],
                skipped: vec![("seg6", "no kernel".into())],
            },
            tcp_seconds: 3,
            congestion: "cubic".into(),
            rounds_done: 3,
            cells: BTreeMap::new(),
            measurements: 0,
            disturbed: BTreeMap::new(),
            failures: Vec::new(),
        };
        for (plain, ours) in [(20.0, 5.0), (22.0, 4.0), (10.0, 9.0)] {
            results.add(Mode::Gso, "plain", &[(Figure::Tcp1, plain)], 0.0);
            results.add(Mode::Gso, OURS, &[(Figure::Tcp1, ours)], 0.2);
        }
        results
    }

    #[test]
    fn ratios_are_of_medians_of_the_same_mode() {
        let results = results();
        assert_eq!(results.ratio(Mode::Gso, "plain", Figure::Tcp1), Some(0.25));
        assert_eq!(results.ratio(Mode::Pkt, "plain", Figure::Tcp1), None);
        let json = to_json(&results);
        let cell = &json["modes"]["gso"]["plain"]["figures"]["tcp1_gbit_s"];
        assert_eq!(
            (&cell["median"], &cell["masque_ratio"]),
            (&json!(20.0), &json!(0.25))
        );
        assert_eq!(json["modes"]["gso"][OURS]["disturbed"], json!(3));
    }

    #[test]
    fn the_text_names_what_is_missing_and_what_was_disturbed() {
        let text = text(&results());
        assert!(text.contains("| plain | 20.0 (10.0–22.0) |"), "{text}");
        assert!(text.contains("| ÷ plain | 0.25 |"), "{text}");
        assert!(text.contains("SKIPPED seg6: no kernel"), "{text}");
        assert!(
            text.contains("3 of 6 measurements were disturbed"),
            "{text}"
        );
    }
}
