//! Figures beside their goals, as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// What was measured in one run.
#[derive(Clone, Debug)]
pub(crate) struct Sheet {
    /// Attachments, policies and ingress points of the run.
    pub(crate) fleet: (u32, u32, u32),
    figures: Vec<Figure>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Figure {
    key: &'static str,
    title: &'static str,
    unit: &'static str,
    value: f64,
    /// The most it may be.
    goal: Option<f64>,
}

impl Figure {
    fn met(&self) -> Option<bool> {
        self.goal.map(|goal| self.value <= goal)
    }
}

impl Sheet {
    pub(crate) fn new(attachments: u32, policies: u32, points: u32) -> Self {
        Self {
            fleet: (attachments, policies, points),
            figures: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A figure, with the most that it may be where there is a goal.
    pub(crate) fn add(
        &mut self,
        (key, title, unit): (&'static str, &'static str, &'static str),
        value: f64,
        goal: Option<f64>,
    ) {
        let figure = Figure {
            key,
            title,
            unit,
            value,
            goal,
        };
        println!("  {}", line(&figure));
        self.figures.push(figure);
    }

    /// Something a reader must know.
    pub(crate) fn note(&mut self, text: String) {
        println!("  {text}");
        self.notes.push(text);
    }

    /// A table for docs/performance.md.
    pub(crate) fn text(&self) -> String {
        let (attachments, policies, points) = self.fleet;
        let mut out = format!(
            "\n{attachments} attachments, {policies} policies, {points} ingress points\n\n\
             | figure | measured | goal | |\n|---|---|---|---|\n"
        );
        for figure in &self.figures {
            let goal = figure.goal.map_or_else(
                || "–".to_owned(),
                |goal| format!("≤ {}", with_unit(goal, figure.unit)),
            );
            let met = match figure.met() {
                Some(true) => "met",
                Some(false) => "**not met**",
                None => "",
            };
            let value = with_unit(figure.value, figure.unit);
            let _ = writeln!(out, "| {} | {value} | {goal} | {met} |", figure.title);
        }
        for note in &self.notes {
            let _ = writeln!(out, "\n- {note}");
        }
        out
    }

    /// Everything, for programs.
    pub(crate) fn json(&self) -> Value {
        let (attachments, policies, points) = self.fleet;
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|figure| {
                let value = json!({
                    "value": figure.value, "unit": figure.unit,
                    "goal": figure.goal, "met": figure.met(),
                });
                (figure.key.to_owned(), value)
            })
            .collect();
        json!({
            "attachments": attachments, "policies": policies, "ingress_points": points,
            "figures": figures, "notes": self.notes,
        })
    }
}

fn line(figure: &Figure) -> String {
    let value = with_unit(figure.value, figure.unit);
    match (figure.goal, figure.met()) {
        (Some(goal), Some(met)) => {
            let goal = with_unit(goal, figure.unit);
            let met = if met { "met" } else { "NOT MET" };
            format!("{}: {value} (goal {goal}: {met})", figure.title)
        }
        _ => format!("{}: {value}", figure.title),
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    format!("{} {unit}", short(value)).trim_end().to_owned()
}

/// Three significant digits; whole numbers as they are.
fn short(value: f64) -> String {
    match value.abs() {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_stands_beside_its_goal() {
        let mut sheet = Sheet::new(100, 10, 2);
        sheet.add(("ready_s", "start to ready", "s"), 1.234, Some(2.0));
        sheet.add(("rest_writes", "writes at rest", ""), 3.0, Some(0.0));
        sheet.add(("cpu_s", "processor", "s"), 120.4, None);
        let text = sheet.text();
        assert!(
            text.contains("| start to ready | 1.23 s | ≤ 2 s | met |"),
            "{text}"
        );
        assert!(
            text.contains("| writes at rest | 3 | ≤ 0 | **not met** |"),
            "{text}"
        );
        assert!(text.contains("| processor | 120 s | – |  |"), "{text}");
        let json = sheet.json();
        assert_eq!(json["figures"]["ready_s"]["met"], json!(true));
        assert_eq!(json["figures"]["rest_writes"]["met"], json!(false));
        assert_eq!(json["figures"]["cpu_s"]["goal"], Value::Null);
    }
}
