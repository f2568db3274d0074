//! The text form of a metrics registry (Prometheus exposition format 0.0.4).

use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::build_info;

/// Why metrics could not be registered or written.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(#[from] pub prometheus::Error);

/// Registers `<prefix>_build_info{version,profile} 1`.
///
/// # Errors
/// [`MetricsError`] when the name is taken.
pub fn register_build_info(registry: &Registry, prefix: &str) -> Result<(), MetricsError> {
    let name = format!("{prefix}_build_info");
    let gauge = IntGaugeVec::new(
        Opts::new(name, "A constant 1, labelled with what was built."),
        &["version", "profile"],
    )?;
    let info = build_info();
    gauge
        .with_label_values(&[info.version, info.profile])
        .set(1);
    registry.register(Box::new(gauge))?;
    Ok(())
}

/// All metrics of `registry`, ready for `/metrics`.
///
/// # Errors
/// [`MetricsError`] when a collector gives something that has no text form.
pub fn encode_text(registry: &Registry) -> Result<String, MetricsError> {
    let mut out = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_info_is_exposed() {
        let registry = Registry::new();
        register_build_info(&registry, "masque_gateway").unwrap();
        let text = encode_text(&registry).unwrap();
        assert!(text.contains("masque_gateway_build_info{"), "{text}");
        assert!(register_build_info(&registry, "masque_gateway").is_err());
    }
}
