//! Which crate may depend on which: pure ← io ← binaries.

use std::collections::BTreeSet;

use crate::metadata::Metadata;

/// What a crate is made of decides what it may touch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No tokio, socket, clock or Kubernetes in its whole dependency tree.
    Pure,
    /// Wraps an outside thing, or is a binary.
    Io,
}

/// Every crate, its kind, and the crates of ours that it may depend on. The first column is the
/// crate's folder under `crates/`.
const ARROWS: &[(&str, Kind, &[&str])] = &[
    ("model", Kind::Pure, &[]),
    ("packet", Kind::Pure, &[]),
    ("http3", Kind::Pure, &[]),
    ("masque", Kind::Pure, &["http3"]),
    ("srv6", Kind::Pure, &["model", "packet"]),
    (
        "gateway-core",
        Kind::Pure,
        &["masque", "srv6", "packet", "model"],
    ),
    ("transport", Kind::Io, &["masque", "http3"]),
    ("tun", Kind::Io, &["packet"]),
    ("files", Kind::Io, &[]),
    ("netlink", Kind::Io, &["files", "srv6", "model"]),
    ("api", Kind::Io, &[]),
    ("controller", Kind::Io, &["api", "model"]),
    ("stream", Kind::Io, &["files", "model"]),
    (
        "operator",
        Kind::Io,
        &["api", "controller", "model", "stream", "telemetry"],
    ),
    ("telemetry", Kind::Io, &[]),
    ("testkit", Kind::Io, &["model"]),
    (
        "gateway",
        Kind::Io,
        &[
            "files",
            "gateway-core",
            "transport",
            "tun",
            "netlink",
            "controller",
            "stream",
            "model",
            "masque",
            "http3",
            "packet",
            "srv6",
            "telemetry",
        ],
    ),
    (
        "client",
        Kind::Io,
        &["masque", "http3", "transport", "tun", "packet"],
    ),
    (
        "cli",
        Kind::Io,
        &[
            "api",
            "client",
            "files",
            "masque",
            "model",
            "netlink",
            "packet",
            "transport",
            "tun",
            "telemetry",
        ],
    ),
    ("xtask", Kind::Io, &["api"]),
];

/// Crates that mean sockets, a runtime, the operating system's clock or Kubernetes.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "kube",
    "kube-core",
    "hyper",
    "quinn-udp",
    "rtnetlink",
    "nix",
];

/// How deep a chain of our own crates may be (D1 of the architecture).
const MAX_DEPTH: usize = 5;

/// Every broken arrow, as a sentence.
pub(crate) fn check(metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    let folder_of = |name: &str| {
        metadata
            .packages
            .iter()
            .find(|p| p.name == name)
            .and_then(|p| p.folder.strip_prefix("crates/"))
    };
    for package in &metadata.packages {
        let Some(folder) = package.folder.strip_prefix("crates/") else {
            continue;
        };
        let Some((_, kind, allowed)) = ARROWS.iter().find(|(name, ..)| *name == folder) else {
            problems.push(format!(
                "crates/{folder} is not in the table of crates/xtask/src/arrows.rs"
            ));
            continue;
        };
        for (dependency, dev) in &package.dependencies {
            let Some(target) = folder_of(dependency) else {
                continue;
            };
            let ok =
                allowed.contains(&target) || (*dev && (target == "testkit" || *kind == Kind::Io));
            if !ok {
                problems.push(format!(
                    "{folder} → {target} is no arrow of the architecture"
                ));
            }
        }
        if *kind == Kind::Pure {
            for reached in reach(metadata, &package.name) {
                if IMPURE.contains(&reached.as_str()) {
                    problems.push(format!(
                        "{folder} is pure, but its dependencies reach {reached}"
                    ));
                }
            }
        }
        let depth = depth(metadata, &package.name);
        if depth > MAX_DEPTH {
            problems.push(format!(
                "{folder} is {depth} crates deep; {MAX_DEPTH} is the bound"
            ));
        }
    }
    problems
}

fn reach(metadata: &Metadata, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut queue = vec![from.to_owned()];
    while let Some(name) = queue.pop() {
        for next in metadata.normal.get(&name).into_iter().flatten() {
            if seen.insert(next.clone()) {
                queue.push(next.clone());
            }
        }
    }
    seen
}

/// The longest chain of our own crates below `from`.
fn depth(metadata: &Metadata, from: &str) -> usize {
    let ours = |name: &str| metadata.packages.iter().any(|p| p.name == name);
    metadata
        .normal
        .get(from)
        .into_iter()
        .flatten()
        .filter(|next| ours(next))
        .map(|next| 1 + depth(metadata, next))
        .max()
        .unwrap_or(0)
}
