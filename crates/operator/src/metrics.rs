//! The operator's metrics. No label names an object, so that their number is bounded.

use masque_telemetry::{
    MetricsError,
    prometheus::{
        Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
        Opts, Registry, core::Collector,
    },
    register_build_info,
};

/// Prefix of every metric.
const PREFIX: &str = "masque_operator";

/// Bounds of every duration histogram, in seconds.
const SECONDS: [f64; 9] = [0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Every metric of one operator.
pub(crate) struct Metrics {
    /// All of them, for `/metrics`.
    pub(crate) registry: Registry,
    /// Answers of the API server, by verb and HTTP status.
    pub(crate) api_requests: IntCounterVec,
    /// Watches that failed and began again.
    pub(crate) watch_errors: IntCounter,
    /// 1 while this process leads.
    pub(crate) leader: IntGauge,
    /// 1 for each CustomResourceDefinition that is missing.
    pub(crate) crd_missing: IntGaugeVec,
    /// Passes over the index, by outcome.
    pub(crate) reconciles: IntCounterVec,
    /// How long a pass took.
    pub(crate) reconcile_seconds: Histogram,
    /// How long each step of a pass took.
    pub(crate) step_seconds: HistogramVec,
    /// Writes that wait for their turn: what a pass wanted and could not do yet.
    pub(crate) workqueue_depth: IntGauge,
    /// Status writes, by kind and outcome.
    pub(crate) status_writes: IntCounterVec,
    /// Writes of children, by kind and outcome.
    pub(crate) child_writes: IntCounterVec,
    /// Objects under our care, by kind and whether their Ready is True.
    pub(crate) managed: IntGaugeVec,
    /// From the change of a Snapshot to the acknowledgement of every pod.
    pub(crate) propagation_seconds: Histogram,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// [`MetricsError`] when a name is given twice: a mistake in this file.
    pub(crate) fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        register_build_info(&registry, PREFIX)?;
        let r = &registry;
        Ok(Self {
            api_requests: counters(
                r,
                "api_requests_total",
                "Answers of the API server.",
                &["verb", "code"],
            )?,
            watch_errors: add(
                r,
                IntCounter::new(
                    name("watch_errors_total"),
                    "Watches that failed and began again.",
                )?,
            )?,
            leader: add(
                r,
                IntGauge::new(name("leader"), "1 while this process leads.")?,
            )?,
            crd_missing: gauges(
                r,
                "crd_missing",
                "1 for each CustomResourceDefinition that is missing.",
                &["crd"],
            )?,
            reconciles: counters(
                r,
                "reconcile_total",
                "Passes over all objects.",
                &["outcome"],
            )?,
            reconcile_seconds: add(
                r,
                Histogram::with_opts(seconds("reconcile_duration_seconds", "Time of a pass."))?,
            )?,
            step_seconds: add(
                r,
                HistogramVec::new(
                    seconds(
                        "reconcile_step_duration_seconds",
                        "Time of a step of a pass.",
                    ),
                    &["step"],
                )?,
            )?,
            workqueue_depth: add(
                r,
                IntGauge::new(name("workqueue_depth"), "Writes that wait for their turn.")?,
            )?,
            status_writes: counters(
                r,
                "status_writes_total",
                "Writes of status.",
                &["kind", "outcome"],
            )?,
            child_writes: counters(
                r,
                "child_writes_total",
                "Writes and deletions of children.",
                &["kind", "outcome"],
            )?,
            managed: gauges(
                r,
                "managed_objects",
                "Objects under the operator's care.",
                &["kind", "ready"],
            )?,
            propagation_seconds: add(
                r,
                Histogram::with_opts(seconds(
                    "config_propagation_seconds",
                    "From a new Snapshot to the acknowledgement of every connected pod.",
                ))?,
            )?,
            registry,
        })
    }
}

fn name(name: &str) -> String {
    format!("{PREFIX}_{name}")
}

fn seconds(rest: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name(rest), help).buckets(SECONDS.to_vec())
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, MetricsError> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    registry: &Registry,
    rest: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    add(
        registry,
        IntCounterVec::new(Opts::new(name(rest), help), labels)?,
    )
}

fn gauges(
    registry: &Registry,
    rest: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, MetricsError> {
    add(
        registry,
        IntGaugeVec::new(Opts::new(name(rest), help), labels)?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_the_prefix() {
        let metrics = Metrics::new().unwrap();
        metrics.leader.set(1);
        let families = metrics.registry.gather();
        assert!(
            families
                .iter()
                .any(|family| family.name() == "masque_operator_leader")
        );
        assert!(
            families
                .iter()
                .all(|family| family.name().starts_with(PREFIX))
        );
    }
}
