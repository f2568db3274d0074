//! The workspace as `cargo metadata` sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use serde::Deserialize;

/// Workspace packages and the whole resolved graph.
pub(crate) struct Metadata {
    /// The workspace's folder.
    pub(crate) root: PathBuf,
    /// Workspace packages.
    pub(crate) packages: Vec<Package>,
    /// Normal (not dev, not build) dependencies of every package, by name.
    pub(crate) normal: BTreeMap<String, BTreeSet<String>>,
}

/// One workspace package.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its folder relative to the root, such as `crates/model`.
    pub(crate) folder: String,
    /// Direct dependencies: name and whether it is for development only.
    pub(crate) dependencies: Vec<(String, bool)>,
}

#[derive(Deserialize)]
struct Raw {
    packages: Vec<RawPackage>,
    workspace_members: Vec<String>,
    workspace_root: PathBuf,
    resolve: RawResolve,
}

#[derive(Deserialize)]
struct RawPackage {
    name: String,
    id: String,
    manifest_path: PathBuf,
    dependencies: Vec<RawDependency>,
}

#[derive(Deserialize)]
struct RawDependency {
    name: String,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct RawResolve {
    nodes: Vec<RawNode>,
}

#[derive(Deserialize)]
struct RawNode {
    id: String,
    deps: Vec<RawEdge>,
}

#[derive(Deserialize)]
struct RawEdge {
    pkg: String,
    dep_kinds: Vec<RawKind>,
}

#[derive(Deserialize)]
struct RawKind {
    kind: Option<String>,
}

/// Runs `cargo metadata`.
pub(crate) fn load() -> Result<Metadata, String> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output()
        .map_err(|e| format!("cargo metadata did not start: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let raw: Raw = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    Ok(digest(raw))
}

fn digest(raw: Raw) -> Metadata {
    let names: BTreeMap<&str, &str> = raw
        .packages
        .iter()
        .map(|p| (p.id.as_str(), p.name.as_str()))
        .collect();
    let name = |id: &str| (*names.get(id).unwrap_or(&"?")).to_owned();
    let normal = raw
        .resolve
        .nodes
        .iter()
        .map(|node| {
            let deps = node
                .deps
                .iter()
                .filter(|d| d.dep_kinds.iter().any(|k| k.kind.is_none()));
            (name(&node.id), deps.map(|d| name(&d.pkg)).collect())
        })
        .collect();
    let packages = raw
        .packages
        .iter()
        .filter(|p| raw.workspace_members.contains(&p.id))
        .map(|p| Package {
            name: p.name.clone(),
            folder: p
                .manifest_path
                .parent()
                .and_then(|d| d.strip_prefix(&raw.workspace_root).ok())
                .map(|d| d.display().to_string())
                .unwrap_or_default(),
            dependencies: p
                .dependencies
                .iter()
                .map(|d| (d.name.clone(), d.kind.as_deref() == Some("dev")))
                .collect(),
        })
        .collect();
    Metadata {
        root: raw.workspace_root,
        packages,
        normal,
    }
}
