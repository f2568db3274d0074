//! `masque-gateway check DIR`.

use std::path::Path;

use masque_controller::Snapshot;
use masque_model::ObjectName;

use crate::{
    exit::Fatal,
    source::{self, CertificateError, Denied},
};

/// Prints every problem, one line each, and says what would run.
///
/// # Errors
/// [`Fatal::Invalid`] when there is an error, [`Fatal::Permission`] when there is none but what may
/// not be read, [`Fatal::Manifests`] when there is no folder.
pub(crate) fn check(dir: &Path) -> Result<(), Fatal> {
    let loaded = source::load(dir, &[])?;
    for problem in &loaded.compiled.problems {
        eprintln!("{problem}");
    }
    let mut errors = loaded.errors();
    let denied = loaded.denied.as_ref();
    let mut denied = denied.map(|denied| told_to_the_reader(denied, dir));
    for (point, name) in certificates(&loaded.compiled.snapshots) {
        let secrets = dir.join(crate::init::SECRETS);
        match crate::certificates::check(&secrets, &loaded.secrets, &name) {
            Ok(()) => {}
            Err(CertificateError::Denied(error)) => {
                denied.get_or_insert_with(|| told_to_the_reader(&error, dir));
            }
            Err(CertificateError::Unusable(sentence)) => {
                errors += 1;
                eprintln!("VPCIngressPoint {point}: {sentence}");
            }
        }
    }
    if errors > 0 {
        return Err(Fatal::Invalid {
            path: dir.to_owned(),
            errors,
        });
    }
    if let Some(line) = denied {
        return Err(Fatal::Permission(line));
    }
    for snapshot in &loaded.compiled.snapshots {
        println!(
            "VPCIngressPoint {}: VPC {}, {} listener(s), {} pool(s), {} attachment(s), {} rule(s)",
            snapshot.ingress_point,
            snapshot.vpc,
            snapshot.listeners.len(),
            snapshot.pools.len(),
            snapshot.attachments.len(),
            snapshot.rules.len()
        );
    }
    Ok(())
}

/// The certificates that listeners name, with their ingress points.
fn certificates(snapshots: &[Snapshot]) -> impl Iterator<Item = (&ObjectName, ObjectName)> {
    snapshots.iter().flat_map(|snapshot| {
        let point = &snapshot.ingress_point;
        let namespace = match &*point.namespace {
            "" => "default",
            namespace => namespace,
        };
        let named = snapshot.listeners.iter().flat_map(|l| &l.certificates);
        named.map(move |name| (point, ObjectName::new(namespace, name)))
    })
}

/// Whoever checks a folder need not be the gateway's user.
fn told_to_the_reader(denied: &Denied, dir: &Path) -> String {
    let dir = dir.display();
    format!("{denied}; look as one who may: `sudo masque-gateway check {dir}`")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::exit::status;

    #[test]
    fn who_checks_need_not_be_who_runs() {
        let error = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let denied = Denied::new(Path::new("/m/secrets"), Path::new("/m/secrets"), error);
        let line = told_to_the_reader(&denied, Path::new("/m"));
        assert!(line.contains("; look as one who may: `sudo masque-gateway check /m`"));
        assert!(!line.contains("chown"), "{line}");
    }

    #[test]
    fn a_policy_with_an_unknown_name_fails() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("starter");
        crate::init::ready(&dir);
        check(&dir).unwrap();
        let file = dir.join("vpc-access-policy.yaml");
        let good = fs::read_to_string(&file).unwrap();
        let deny = "    - {name: no, action: Deny, connectors: {names: [labtop]}}\n";
        let target = good.replace("      name: production\n", "      name: prodution\n");
        assert_ne!(target, good);
        for bad in [good.clone() + deny, target] {
            fs::write(&file, bad).unwrap();
            let fatal = check(&dir).unwrap_err();
            assert_eq!(fatal.status(), status::DATA);
            assert!(matches!(fatal, Fatal::Invalid { errors: 1, .. }), "{fatal}");
            let problems = source::load(&dir, &[]).unwrap().compiled.problems;
            let line = problems[0].to_string();
            assert!(line.starts_with("vpc-access-policy.yaml:"), "{line}");
            assert!(line.contains("; did you mean "), "{line}");
        }
    }
}
