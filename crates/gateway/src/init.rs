//! `masque-gateway init DIR`: a folder that runs as it is.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::{development, exit::Fatal};

/// Where a certificate named in `spec.listeners[].tls.certificateRefs` lies: as a Secret mounts.
pub(crate) const SECRETS: &str = "secrets";

/// The VPC of the starter manifests.
const VPC: &str = "production-vpc";
/// UDP port of their listener.
const PORT: u16 = 4433;

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
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let host = hosts.first().map_or("localhost", String::as_str);
    print!("{}", next_steps(&dir, host));
    Ok(())
}

/// What is to do now: the README's commands, for this folder and host.
fn next_steps(dir: &Path, host: &str) -> String {
    let dir = dir.display();
    let address: Option<IpAddr> = host.parse().ok();
    // Nothing is copied where gateway and client are one machine.
    let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    let host = match address {
        Some(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    };
    let (fetch, bring, ca) = if is_here {
        (String::new(), String::new(), format!("{dir}/ca.crt"))
    } else {
        let programs = "/usr/local/bin";
        let fetch = format!(
            "    scp {host}:{programs}/datum-connect {host}:{dir}/ca.crt .\n    \
             sudo install datum-connect {programs}/\n"
        );
        let bring = format!("    scp connectors.yaml {host}:\n");
        (fetch, bring, "ca.crt".to_owned())
    };
    format!(
        "Wrote {dir}. Next, your SIDs, prefixes and pools:\n    \
         sudoedit {dir}/vpc-ingress-point.yaml\n\
         On the client:\n\
         {fetch}    \
         datum-connect key --vpc {VPC} > connectors.yaml\n\
         {bring}\
         On the gateway, where that replaces the placeholder:\n    \
         sudo install -m 644 connectors.yaml {dir}/\n    \
         sudo masque-gateway check {dir}\n    \
         sudo masque-gateway --manifests {dir}\n\
         On the client:\n    \
         sudo datum-connect attach --vpc {VPC} --gateway https://{host}:{PORT} --ca {ca}\n"
    )
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

    /// The commands among printed lines, without comments.
    fn commands<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let commands = lines.map(|line| line.split("  #").next().unwrap_or(line).trim());
        // A block of them begins with its language.
        commands.filter(|line| !["", "sh"].contains(line)).collect()
    }

    #[test]
    fn the_next_steps_are_those_of_the_readme() {
        let readme = include_str!("../../../README.md");
        let (_, after) = readme.split_once("sudo masque-gateway init ").unwrap();
        let (steps, _) = after.split_once("datum-connect status").unwrap();
        // Text and commands take turns; the first line is the rest of `init`'s.
        let blocks = steps.split("```").step_by(2).flat_map(str::lines).skip(1);
        let told = next_steps(Path::new("/etc/masque-gateway"), "gw.example.com");
        let printed = told.lines().filter(|line| line.starts_with("    "));
        assert_eq!(commands(printed), commands(blocks));
    }

    #[test]
    fn the_next_steps_fit_the_folder_and_the_host() {
        let told = next_steps(Path::new("/home/ada/gw"), "fd00::1");
        assert!(told.contains("scp [fd00::1]:/usr/local"), "{told}");
        assert!(
            told.contains("--gateway https://[fd00::1]:4433 --ca ca.crt"),
            "{told}"
        );
        for host in ["localhost", "127.0.0.1", "::1"] {
            let told = next_steps(Path::new("/home/ada/gw"), host);
            assert!(!told.contains("scp"), "{told}");
            assert!(told.contains("key --vpc production-vpc >"), "{told}");
            assert!(told.contains("--ca /home/ada/gw/ca.crt"), "{told}");
        }
    }

    #[test]
    fn the_next_steps_fit_the_manifests() {
        let (_, point) = MANIFESTS[0];
        assert!(point.contains(&format!("vpcRef: {{name: {VPC}}}")));
        assert!(point.contains(&format!("port: {PORT}")));
    }
}
