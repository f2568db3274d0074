//! `masque-gateway check DIR`.

use std::path::Path;

use crate::{exit::Fatal, source};

/// Prints every problem, one line each, and says what would run.
///
/// # Errors
/// [`Fatal::Invalid`] when there is an error, [`Fatal::Manifests`] when there is no folder.
pub(crate) fn check(dir: &Path) -> Result<(), Fatal> {
    let loaded = source::load(dir, &[])?;
    let mut errors = 0;
    for problem in &loaded.compiled.problems {
        errors += usize::from(problem.is_error());
        eprintln!("{problem}");
    }
    let default = "default";
    for snapshot in &loaded.compiled.snapshots {
        let namespace = &snapshot.ingress_point.namespace;
        for listener in &snapshot.listeners {
            for certificate in &listener.certificates {
                let namespace = if namespace.is_empty() {
                    default
                } else {
                    namespace
                };
                let name = masque_model::ObjectName::new(namespace, certificate);
                if let Err(sentence) = crate::certificates::check(
                    &dir.join(crate::init::SECRETS),
                    &loaded.secrets,
                    &name,
                ) {
                    errors += 1;
                    eprintln!("VPCIngressPoint {}: {sentence}", snapshot.ingress_point);
                }
            }
        }
    }
    if errors > 0 {
        return Err(Fatal::Invalid {
            path: dir.to_owned(),
            errors,
        });
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::exit::status;

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
