//! The gateway's metrics, filled from reports when somebody reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use masque_gateway_core::{Counters, DropReason, Tables, VpcIndex};
use masque_telemetry::{
    MetricsError, encode_text,
    prometheus::{CounterVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry},
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
    devices_reopened: IntCounter,
    operator_connected: IntGaugeVec,
    /// One reader at a time keeps counters from going back.
    reading: Mutex<Seen>,
}

/// What the last reading saw. A VPC's counters are the sum of differences, because ingress points come
/// and go: each has its own [`VpcIndex`], which never comes again.
#[derive(Debug, Default)]
struct Seen {
    /// By shard and ingress point; no more than the last reports had.
    counters: BTreeMap<(u16, VpcIndex), Counters>,
    /// The VPCs that have series.
    vpcs: BTreeSet<String>,
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
            devices_reopened: devices_reopened_counter(&registry)?,
            operator_connected: operator_gauge(&registry)?,
            registry,
            reading: Mutex::new(Seen::default()),
        })
    }

    /// Whether the stream to the operator is open; a gateway without one has no such metric.
    pub(crate) fn operator_connected(&self, connected: bool) {
        let none: [&str; 0] = [];
        let gauge = self.operator_connected.with_label_values(&none);
        gauge.set(connected.into());
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
        devices_reopened: u64,
    ) -> Result<String, MetricsError> {
        let mut seen = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill_vpcs(vpcs);
        self.fill_counters(reports, tables, &mut seen);
        self.forget_vpcs(tables, &mut seen);
        self.fill_shards(reports);
        let reopened = devices_reopened.saturating_sub(self.devices_reopened.get());
        self.devices_reopened.inc_by(reopened);
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

    fn fill_counters(&self, reports: &[ShardReport], tables: &Tables, seen: &mut Seen) {
        for report in reports {
            let known = |index| (report.shard, index);
            for (index, counters) in &report.figures.vpcs {
                let Some(table) = tables.vpc(*index) else {
                    continue;
                };
                let former = seen.counters.insert(known(*index), *counters);
                let vpc = table.vpc().to_string();
                self.add(&vpc, &counters.since(&former.unwrap_or_default()));
                seen.vpcs.insert(vpc);
            }
        }
        seen.counters
            .retain(|(_, index), _| tables.vpc(*index).is_some());
    }

    /// Adds what a shard counted since the last reading. Several ingress points may lead to one VPC.
    fn add(&self, vpc: &str, more: &Counters) {
        for (direction, traffic) in [("to_vpc", more.to_vpc), ("from_vpc", more.to_client)] {
            let labels = &[vpc, direction];
            self.packets
                .with_label_values(labels)
                .inc_by(traffic.packets);
            self.bytes.with_label_values(labels).inc_by(traffic.bytes);
        }
        for reason in DropReason::ALL {
            let drops = self.drops.with_label_values(&[vpc, reason.as_str()]);
            drops.inc_by(more.dropped(*reason));
        }
        for (result, count) in [
            ("sent", more.icmp_errors),
            ("suppressed", more.icmp_suppressed),
        ] {
            self.icmp.with_label_values(&[vpc, result]).inc_by(count);
        }
        self.flows
            .with_label_values(&[vpc])
            .inc_by(more.flows_opened);
        self.audit
            .with_label_values(&[vpc])
            .inc_by(more.audit_denied);
    }

    /// A VPC that the gateway does not run any more has no series: whoever reads them takes a later
    /// beginning at zero for what it is.
    fn forget_vpcs(&self, tables: &Tables, seen: &mut Seen) {
        let run: BTreeSet<String> = tables.vpcs().map(|table| table.vpc().to_string()).collect();
        for vpc in seen.vpcs.difference(&run) {
            let forget = |counter: &IntCounterVec, labels: &[&str]| {
                // One that was never there is gone as well.
                let _gone = counter.remove_label_values(labels);
            };
            for direction in ["to_vpc", "from_vpc"] {
                forget(&self.packets, &[vpc, direction]);
                forget(&self.bytes, &[vpc, direction]);
            }
            for reason in DropReason::ALL {
                forget(&self.drops, &[vpc, reason.as_str()]);
            }
            for result in ["sent", "suppressed"] {
                forget(&self.icmp, &[vpc, result]);
            }
            forget(&self.flows, &[vpc]);
            forget(&self.audit, &[vpc]);
        }
        seen.vpcs.retain(|vpc| run.contains(vpc));
    }

    fn fill_shards(&self, reports: &[ShardReport]) {
        let mut requests = BTreeMap::<&str, u64>::new();
        let mut ends = BTreeMap::<&str, u64>::new();
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

fn devices_reopened_counter(registry: &Registry) -> Result<IntCounter, MetricsError> {
    let counter = IntCounter::new(
        format!("{PREFIX}_tun_reopened_total"),
        "TUN devices opened again after somebody had deleted them.",
    )?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn operator_gauge(registry: &Registry) -> Result<IntGaugeVec, MetricsError> {
    let help = "Whether the stream to the operator is open.";
    register_gauge(registry, "operator_connected", help, &[])
}

fn busy_poll_counter(registry: &Registry) -> Result<CounterVec, MetricsError> {
    let opts = Opts::new(
        format!("{PREFIX}_busy_poll_seconds_total"),
        "Time packet threads spent looking for packets instead of sleeping, what others ran between two looks included.",
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
mod tests;
