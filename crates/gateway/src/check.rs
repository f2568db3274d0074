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
