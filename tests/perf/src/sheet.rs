//! Figures by name, for the runs that are no table of configurations.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use crate::{failure::Failure, machine::Machine};

/// Figures of a run, in the order they were measured.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    values: Map<String, Value>,
}

impl Sheet {
    /// Prints a figure and keeps it.
    pub(crate) fn add(&mut self, key: &str, value: f64, text: impl AsRef<str>) {
        println!("{}", text.as_ref());
        self.keep(key, value);
    }

    /// Keeps a figure that another one's text tells already.
    pub(crate) fn keep(&mut self, key: &str, value: f64) {
        self.values.insert(key.into(), value.into());
    }

    /// Writes all of them with where and what was measured.
    pub(crate) fn write(&self, machine: &Machine, path: &Path) -> Result<(), Failure> {
        let json = json!({
            "commit": machine.commit, "date": machine.date, "kernel": machine.kernel,
            "processor": machine.processor, "cores": machine.cores, "figures": self.values,
        });
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Failure::file(folder))?;
        }
        fs::write(path, format!("{json:#}\n")).map_err(Failure::file(path))
    }
}
