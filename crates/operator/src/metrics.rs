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
    /// When the CA ends, in seconds since 1970; 0 until this process leads.
    pub(crate) ca_expiry: IntGauge,
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
        let r = Names(&registry);
        let answers = "Answers of the API server.";
        let failed_watches = "Watches that failed and began again.";
        let missing = "1 for each CustomResourceDefinition that is missing.";
        let ca = "When the CA ends, in seconds since 1970; 0 until this process leads.";
        let waiting = "Writes that wait for their turn.";
        let children = "Writes and deletions of children.";
        let managed = "Objects under the operator's care.";
        let spread = "From a new Snapshot to the acknowledgement of every connected pod.";
        Ok(Self {
            api_requests: r.counters("api_requests_total", answers, &["verb", "code"])?,
            watch_errors: r.counter("watch_errors_total", failed_watches)?,
            leader: r.gauge("leader", "1 while this process leads.")?,
            crd_missing: r.gauges("crd_missing", missing, &["crd"])?,
            ca_expiry: r.gauge("ca_expiry_timestamp_seconds", ca)?,
            reconciles: r.counters("reconcile_total", "Passes over all objects.", &["outcome"])?,
            reconcile_seconds: r.seconds("reconcile_duration_seconds", "Time of a pass.")?,
            step_seconds: r.steps("reconcile_step_duration_seconds", "Time of a step.")?,
            workqueue_depth: r.gauge("workqueue_depth", waiting)?,
            status_writes: r.counters(
                "status_writes_total",
                "Writes of status.",
                &["kind", "outcome"],
            )?,
            child_writes: r.counters("child_writes_total", children, &["kind", "outcome"])?,
            managed: r.gauges("managed_objects", managed, &["kind", "ready"])?,
            propagation_seconds: r.seconds("config_propagation_seconds", spread)?,
            registry,
        })
    }
}

/// Registers metrics under the common prefix.
struct Names<'a>(&'a Registry);

impl Names<'_> {
    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, MetricsError> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, rest: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.add(IntCounter::new(name(rest), help)?)
    }

    fn gauge(&self, rest: &str, help: &str) -> Result<IntGauge, MetricsError> {
        self.add(IntGauge::new(name(rest), help)?)
    }

    fn counters(
        &self,
        rest: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, MetricsError> {
        self.add(IntCounterVec::new(Opts::new(name(rest), help), labels)?)
    }

    fn gauges(&self, rest: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.add(IntGaugeVec::new(Opts::new(name(rest), help), labels)?)
    }

    fn seconds(&self, rest: &str, help: &str) -> Result<Histogram, MetricsError> {
        self.add(Histogram::with_opts(seconds(rest, help))?)
    }

    fn steps(&self, rest: &str, help: &str) -> Result<HistogramVec, MetricsError> {
        self.add(HistogramVec::new(seconds(rest, help), &["step"])?)
    }
}

fn name(rest: &str) -> String {
    format!("{PREFIX}_{rest}")
}

fn seconds(rest: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name(rest), help).buckets(SECONDS.to_vec())
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
