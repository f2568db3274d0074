//! connect-ip-go against the real `masque-gateway` in a fabric of namespaces: an Ed25519 client
//! certificate says which connector it is, and a workload behind SRv6 answers its pings.

use std::{fmt::Write as _, path::Path};

use masque_netns_tests::Fabric;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

use crate::connect_ip_go::{PINGS, WORKLOAD, program};

/// Where the fabric's gateway is.
const GATEWAY: &str = "192.0.2.1";

/// Writes a connector's certificate and key; its public key as manifests have it.
fn identity(folder: &Path) -> String {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(folder.join("connector.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("connector.key"), key.serialize_pem()).unwrap();
    key.public_key_raw()
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
}

/// What the program says, and whether it ended well, with this identity or with none.
fn run(fabric: &Fabric, program: &Path, with_certificate: bool) -> (String, bool) {
    let mut command = fabric
        .laptop
        .command::<&str>(program.to_str().unwrap(), &[]);
    command
        .env("ADDRESS", format!("{GATEWAY}:4433"))
        .env(
            "TEMPLATE",
            format!("https://{GATEWAY}:4433/.well-known/masque/ip/*/*/"),
        )
        .env("SERVER_NAME", GATEWAY)
        .env("ROOTS", fabric.manifests.development_ca())
        .env("WORKLOAD", WORKLOAD)
        .env("PINGS", PINGS.to_string());
    if with_certificate {
        command
            .env("CERTIFICATE", fabric.folder().join("connector.pem"))
            .env("KEY", fabric.folder().join("connector.key"));
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (said, output.status.success())
}

fn run_version(version: &str) {
    let program = match program(version) {
        Ok(program) => program,
        Err(reason) => return println!("SKIPPED: connect-ip-go {version}, real gateway: {reason}"),
    };
    let Some(mut fabric) = Fabric::new() else {
        return;
    };
    let id = identity(fabric.folder());
    fabric.manifests.connectors.insert("go".to_owned(), id);
    fabric.manifests.attach("go", "production-vpc");
    let gateway = fabric.start_gateway();

    // A stranger learns nothing.
    let (said, is_good) = run(&fabric, &program, false);
    assert!(
        !is_good && said.starts_with("status 404"),
        "{said}\n{}",
        gateway.log()
    );

    let (said, is_good) = run(&fabric, &program, true);
    assert!(is_good, "{said}\n{}", gateway.log());
    let replies = format!("replies {PINGS}");
    for line in [
        "status 200",
        "route 10.0.1.0 10.0.2.255 0",
        &replies,
        "closed",
    ] {
        assert!(
            said.lines().any(|said| said == line),
            "no {line:?} in {said}"
        );
    }
    for pool in ["assigned 10.0.100.", "assigned fd20:10:0:100:"] {
        assert!(
            said.lines().any(|said| said.starts_with(pool)),
            "no {pool:?} in {said}"
        );
    }
    masque_netns_tests::eventually("the session ends with the tunnel", || {
        gateway.sessions() == 0
    });
}

#[test]
fn version_0_1_reaches_a_workload() {
    run_version("v0.1");
}

#[test]
fn version_0_7_reaches_a_workload() {
    run_version("v0.7");
}
