//! The gateway's metrics, filled from reports when somebody reads them.

use std::sync::{Mutex, PoisonError};

use masque_gateway_core::{Counters, DropReason, Tables};
use masque_telemetry::{
    MetricsError, encode_text,
    prometheus::{CounterVec, IntCounterVec, IntGaugeVec, Opts, Registry},
    register_build_info,
};

use crate::{command::ShardReport, control::Devices, report::VpcReport};

/// The prefix of every metric.
const PREFIX: &str = "masque_gateway";

/// Every metric, by name. Labels are VPCs, reasons and shards: bounded by the manifests and the
/// code, never by clients.
pub(crate) struct Metrics {
    registry: Registry,
    sessions: IntGaugeVec,
    requests: IntCounterVec,
    ends: IntCounterVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    drops: IntCounterVec,
    icmp: IntCounterVec,
    flows: IntCounterVec,
    audit: IntCounterVec,
    shard_events: IntCounterVec,
    handovers: IntCounterVec,
    busy_poll: CounterVec,
    pool_addresses: IntGaugeVec,
    pool_allocated: IntGaugeVec,
    snapshot_version: IntGaugeVec,
    problems: IntGaugeVec,
    decapsulation: IntGaugeVec,
    /// Counters are set from totals; one reader at a time keeps them from going back.
    reading: Mutex<()>,
}

impl Metrics {
    /// Registers every metric.
    ///
    /// # Errors
    /// [`MetricsError`] when a name is taken twice.
    pub(crate) fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        register_build_info(&registry, PREFIX)?;
        let counter = |name, help, labels| register_counter(&registry, name, help, labels);
        let gauge = |name, help, labels| register_gauge(&registry, name, help, labels);
        let per_vpc = &["vpc", "direction"];
        let pool = &["vpc", "prefix"];
        Ok(Self {
            sessions: gauge("sessions", "Open sessions.", &["vpc"])?,
            requests: counter("session_setups_total", "Requests by result.", &["result"])?,
            ends: counter(
                "session_ends_total",
                "Sessions that ended, by reason.",
                &["reason"],
            )?,
            packets: counter("packets_total", "Inner packets forwarded.", per_vpc)?,
            bytes: counter("bytes_total", "Bytes of inner packets forwarded.", per_vpc)?,
            drops: counter("drops_total", "Inner packets dropped.", &["vpc", "reason"])?,
            icmp: counter(
                "icmp_errors_total",
                "ICMP errors of the gateway.",
                &["vpc", "result"],
            )?,
            flows: counter(
                "flows_opened_total",
                "Flows that the policy let open.",
                &["vpc"],
            )?,
            audit: counter(
                "audit_denied_total",
                "Packets that an Audit rule denies.",
                &["vpc"],
            )?,
            shard_events: counter(
                "shard_events_total",
                "What packet threads dropped, lost or did outside of any VPC's policy.",
                &["shard", "event"],
            )?,
            handovers: counter(
                "handovers_total",
                "Packets given to another shard.",
                &["shard"],
            )?,
            busy_poll: busy_poll_counter(&registry)?,
            pool_addresses: gauge("pool_addresses", "Addresses that a pool can give.", pool)?,
            pool_allocated: gauge(
                "pool_allocated",
                "Addresses of a pool in use or resting.",
                pool,
            )?,
            snapshot_version: gauge(
                "snapshot_version",
                "The Snapshot that runs.",
                &["ingress_point"],
            )?,
            problems: gauge(
                "manifest_problems",
                "Problems in the manifests.",
                &["severity"],
            )?,
            decapsulation: gauge(
                "decapsulation_info",
                "How packets leave SRv6.",
                &["behavior"],
            )?,
            registry,
            reading: Mutex::new(()),
        })
    }

    /// Fills the metrics and gives their text.
    ///
    /// # Errors
    /// [`MetricsError`] when a metric has no text form.
    pub(crate) fn text(
        &self,
        reports: &[ShardReport],
        vpcs: &[VpcReport],
        tables: &Tables,
        devices: &Devices,
    ) -> Result<String, MetricsError> {
        let _one_reader = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill_vpcs(vpcs);
        self.fill_counters(reports, tables);
        self.fill_shards(reports);
        self.problems
            .with_label_values(&["error"])
            .set(signed(devices.errors));
        let warnings = devices.problems.len() - devices.errors.min(devices.problems.len());
        self.problems
            .with_label_values(&["warning"])
            .set(signed(warnings));
        self.decapsulation.reset();
        if !devices.decapsulation.is_empty() {
            self.decapsulation
                .with_label_values(&[devices.decapsulation.as_str()])
                .set(1);
        }
        encode_text(&self.registry)
    }

    fn fill_vpcs(&self, vpcs: &[VpcReport]) {
        for gauge in [
            &self.sessions,
            &self.pool_addresses,
            &self.pool_allocated,
            &self.snapshot_version,
        ] {
            gauge.reset();
        }
        for vpc in vpcs {
            self.sessions
                .with_label_values(&[&vpc.vpc])
                .add(signed(vpc.sessions));
            let version = i64::try_from(vpc.snapshot_version).unwrap_or(i64::MAX);
            self.snapshot_version
                .with_label_values(&[&vpc.ingress_point])
                .set(version);
            for pool in &vpc.pools {
                let labels = [vpc.vpc.as_str(), &pool.prefix.to_string()];
                let size = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                self.pool_addresses
                    .with_label_values(&labels)
                    .set(size(pool.total));
                self.pool_allocated
                    .with_label_values(&labels)
                    .set(size(pool.allocated));
            }
        }
    }

    fn fill_counters(&self, reports: &[ShardReport], tables: &Tables) {
        // Several ingress points may lead to one VPC.
        let mut sums = std::collections::BTreeMap::<String, Counters>::new();
        for report in reports {
            for (index, counters) in &report.figures.vpcs {
                if let Some(table) = tables.vpc(*index) {
                    let sum = sums.entry(table.vpc().to_string()).or_default();
                    sum.add(counters);
                }
            }
        }
        for (vpc, sum) in sums {
            for (direction, traffic) in [("to_vpc", sum.to_vpc), ("from_vpc", sum.to_client)] {
                raise(&self.packets, &[&vpc, direction], traffic.packets);
                raise(&self.bytes, &[&vpc, direction], traffic.bytes);
            }
            for reason in DropReason::ALL {
                raise(&self.drops, &[&vpc, reason.as_str()], sum.dropped(*reason));
            }
            raise(&self.icmp, &[&vpc, "sent"], sum.icmp_errors);
            raise(&self.icmp, &[&vpc, "suppressed"], sum.icmp_suppressed);
            raise(&self.flows, &[&vpc], sum.flows_opened);
            raise(&self.audit, &[&vpc], sum.audit_denied);
        }
    }

    fn fill_shards(&self, reports: &[ShardReport]) {
        let mut requests = std::collections::BTreeMap::<&str, u64>::new();
        let mut ends = std::collections::BTreeMap::<&str, u64>::new();
        for report in reports {
            let shard = report.shard.to_string();
            let figures = &report.figures;
            for (label, count) in &figures.requests {
                *requests.entry(label).or_default() += count;
            }
            for (label, count) in &figures.ends {
                *ends.entry(label).or_default() += count;
            }
            raise(&self.handovers, &[&shard], figures.handovers);
            let busy_poll = self.busy_poll.with_label_values(&[&shard]);
            busy_poll.inc_by((figures.busy_poll.as_secs_f64() - busy_poll.get()).max(0.0));
            for (event, count) in figures.events() {
                raise(&self.shard_events, &[&shard, event], count);
            }
        }
        for (label, count) in requests {
            raise(&self.requests, &[label], count);
        }
        for (label, count) in ends {
            raise(&self.ends, &[label], count);
        }
    }
}

fn register_counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    let vec = IntCounterVec::new(Opts::new(format!("{PREFIX}_{name}"), help), labels)?;
    registry.register(Box::new(vec.clone()))?;
    Ok(vec)
}

fn busy_poll_counter(registry: &Registry) -> Result<CounterVec, MetricsError> {
    let opts = Opts::new(
        format!("{PREFIX}_busy_poll_seconds_total"),
        "Time packet threads spent looking for packets instead of sleeping.",
    );
    let vec = CounterVec::new(opts, &["shard"])?;
    registry.register(Box::new(vec.clone()))?;
    Ok(vec)
}

fn register_gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, MetricsError> {
    let vec = IntGaugeVec::new(Opts::new(format!("{PREFIX}_{name}"), help), labels)?;
    registry.register(Box::new(vec.clone()))?;
    Ok(vec)
}

/// Sets a counter to a total that only grows.
fn raise(counter: &IntCounterVec, labels: &[&str], total: u64) {
    let counter = counter.with_label_values(labels);
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_never_go_back() {
        let metrics = Metrics::new().unwrap();
        raise(&metrics.handovers, &["0"], 5);
        raise(&metrics.handovers, &["0"], 3);
        raise(&metrics.handovers, &["0"], 7);
        assert_eq!(metrics.handovers.with_label_values(&["0"]).get(), 7);
    }

    #[test]
    fn names_follow_the_conventions() {
        let metrics = Metrics::new().unwrap();
        let devices = Devices {
            decapsulation: "End.DT46".to_owned(),
            ..Devices::default()
        };
        let text = metrics
            .text(&[], &[], &Tables::default(), &devices)
            .unwrap();
        for name in [
            "masque_gateway_build_info",
            "masque_gateway_decapsulation_info",
        ] {
            assert!(text.contains(name), "{text}");
        }
    }
}
