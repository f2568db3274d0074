//! `masque-gateway init DIR`: a folder that runs as it is.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::{development, exit::Fatal};

/// Where a certificate named in `spec.listeners[].tls.certificateRefs` lies: as a Secret mounts.
pub(crate) const SECRETS: &str = "secrets";

/// The starter manifests, each with its file name.
const MANIFESTS: [(&str, &str); 4] = [
    (
        "vpc-ingress-point.yaml",
        include_str!("init/vpc-ingress-point.yaml"),
    ),
    (
        "vpc-access-policy.yaml",
        include_str!("init/vpc-access-policy.yaml"),
    ),
    ("connectors.yaml", include_str!("init/connectors.yaml")),
    ("README.md", include_str!("init/README.md")),
];

/// Writes the folder.
///
/// # Errors
/// [`Fatal::Exists`] when it is there already, [`Fatal::Write`] or [`Fatal::Certificate`].
pub(crate) fn init(dir: &Path, hosts: &[String]) -> Result<(), Fatal> {
    if dir.exists() && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Fatal::Exists {
            path: dir.to_owned(),
        });
    }
    let certificates = development::certificates(hosts)
        .map_err(|e| Fatal::Certificate(format!("cannot make a certificate: {e}")))?;
    make_dir(dir, 0o755)?;
    for (name, text) in MANIFESTS {
        write(&dir.join(name), text.as_bytes(), 0o644)?;
    }
    let secret = dir.join(SECRETS).join("gateway-tls");
    make_dir(&dir.join(SECRETS), 0o700)?;
    make_dir(&secret, 0o700)?;
    write(
        &secret.join("tls.crt"),
        certificates.chain.as_bytes(),
        0o644,
    )?;
    write(&secret.join("tls.key"), certificates.key.as_bytes(), 0o600)?;
    write(&dir.join("ca.crt"), certificates.ca.as_bytes(), 0o644)?;
    println!("Wrote {}. Next:", dir.display());
    println!(
        "  1. put your connector's key into {}",
        dir.join("connectors.yaml").display()
    );
    println!("     (`datum-connect key` on the client prints the manifest)");
    println!(
        "  2. put your SIDs into {}",
        dir.join("vpc-ingress-point.yaml").display()
    );
    println!("  3. masque-gateway check {}", dir.display());
    println!("  4. masque-gateway --manifests {}", dir.display());
    println!("  5. on the client: datum-connect attach --vpc production-vpc \\");
    println!(
        "       --gateway https://HOST:4433 --ca {}",
        dir.join("ca.crt").display()
    );
    Ok(())
}

pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), Fatal> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| Fatal::Write {
            path: path.to_owned(),
            error,
        })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Fatal> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Fatal::Write {
            path: path.to_owned(),
            error,
        })
}

/// A starter folder in which the placeholder is a connector's key, as its owner makes it.
#[cfg(test)]
pub(crate) fn ready(dir: &Path) {
    init(dir, &["gw.example".to_owned()]).unwrap();
    let file = dir.join("connectors.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let edited = text.replace(&"0".repeat(64), &format!("'{}'", "07".repeat(32)));
    assert_ne!(edited, text);
    fs::write(file, edited).unwrap();
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn writes_once_and_keeps_keys_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("starter");
        init(&dir, &["gw.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        let key = dir.join("secrets/gateway-tls/tls.key");
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(fs::read_to_string(&key).unwrap().contains("PRIVATE KEY"));
        assert!(!dir.join("ca.key").exists());
        assert!(matches!(init(&dir, &[]), Err(Fatal::Exists { .. })));
    }

    #[test]
    fn nobody_gets_in_with_the_placeholder() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("starter");
        init(&dir, &["gw.example".to_owned()]).unwrap();
        let compiled = crate::source::load(&dir, &[]).unwrap().compiled;
        assert_eq!(compiled.snapshots[0].attachments, []);
        let problem = compiled.problems[0].to_string();
        assert!(problem.contains("connectors.yaml"), "{problem}");
        assert!(problem.contains("placeholder"), "{problem}");
    }
}
