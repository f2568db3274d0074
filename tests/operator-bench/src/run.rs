//! One run: a cluster, an operator and a fleet of one size, from nothing to nothing.

use std::{path::PathBuf, time::Duration};

use kube::Client;
use masque_testkit::free_port;
use tokio::time::Instant;

use crate::{
    cluster::{self, Cluster, Writes},
    exposition::Exposition,
    failure::Failure,
    fleet::{ATTACHMENT, Fleet, POINT},
    gateways::Gateways,
    goals::Goals,
    machine,
    operator::{NAMESPACE, Operator},
    options::Options,
    sheet::Sheet,
    stats::quantile,
    wait::until,
};

const PASSES: &str = "masque_operator_reconcile_duration_seconds";
const STEPS: &str = "masque_operator_reconcile_step_duration_seconds";
const SPREAD: &str = "masque_operator_config_propagation_seconds";
/// Until an idle process has given back what its start needed.
const SETTLE: Duration = Duration::from_secs(5);
/// Pause between policy edits while attachments are made.
const EDIT_EVERY: Duration = Duration::from_millis(500);

/// What a run works with.
pub(crate) struct Run<'a> {
    options: &'a Options,
    goals: Goals,
    cluster: Cluster,
    client: Client,
    fleet: Fleet,
    stream: u16,
    log: PathBuf,
    sheet: Sheet,
}

/// Measures everything for one number of attachments.
pub(crate) async fn run(options: &Options, size: u32) -> Result<Sheet, Failure> {
    let cluster = Cluster::start(&options.root, size).await?;
    let client = cluster.client().await?;
    let fleet = Fleet::new(client.clone(), options.points, size, options.policies);
    let log = options.results.join(format!("operator-{size}.log"));
    // That of an earlier run, if there is one.
    let _removed = std::fs::remove_file(&log);
    let mut run = Run {
        options,
        goals: Goals::of(size),
        cluster,
        client,
        fleet,
        stream: free_port(),
        log,
        sheet: Sheet::new(size, options.policies, options.points),
    };
    run.measure().await?;
    Ok(run.sheet)
}

impl Run<'_> {
    async fn measure(&mut self) -> Result<(), Failure> {
        self.fleet.create_namespace(NAMESPACE).await?;
        let operator = self.idle().await?;
        self.fleet.create_points().await?;
        let limit = self.options.limit;
        let gateways = Gateways::start(&self.client, self.fleet.points, self.stream, limit).await?;
        operator.all_ready(POINT, self.fleet.points, limit).await?;
        self.fleet.create_policies().await?;
        self.fleet.create_connectors().await?;
        operator.quiet(limit).await?;
        self.burst(&operator, &gateways).await?;
        self.rest(&operator).await?;
        self.edits(&operator, &gateways).await?;
        operator.stop().await?;
        let operator = self.restart(&gateways).await?;
        self.relist(&operator, &gateways).await?;
        self.delete(&operator).await?;
        operator.stop().await
    }

    /// An operator without any object.
    async fn idle(&mut self) -> Result<Operator, Failure> {
        let operator = self.operator()?;
        let ready = operator.ready(self.options.limit).await?;
        operator.leads(self.options.limit).await?;
        tokio::time::sleep(SETTLE).await;
        let what = ("start_empty_s", "start to ready, no objects", "s");
        self.sheet.add(what, ready.as_secs_f64(), None);
        let what = ("rss_idle_mb", "memory, no objects", "MB");
        let resident = operator.memory()?.resident_mb;
        self.sheet.add(what, resident, Some(self.goals.rss_idle_mb));
        Ok(operator)
    }

    fn operator(&self) -> Result<Operator, Failure> {
        Operator::start(
            self.options,
            &self.cluster.kubeconfig,
            self.stream,
            &self.log,
        )
    }

    /// Every attachment is made at once; policies are edited meanwhile.
    async fn burst(&mut self, operator: &Operator, gateways: &Gateways) -> Result<(), Failure> {
        let size = self.fleet.attachments;
        let (metrics, writes) = (
            operator.metrics().await,
            cluster::writes(&self.client).await?,
        );
        let processor = operator.processor_s()?;
        let mut edits_ms = Vec::new();
        let programmed = async {
            let begun = Instant::now();
            self.fleet.create_attachments().await?;
            let created = begun.elapsed().as_secs_f64();
            operator
                .all_ready(ATTACHMENT, size, self.options.limit)
                .await?;
            Ok((created, begun.elapsed().as_secs_f64()))
        };
        let (created, programmed) = tokio::select! {
            done = programmed => done?,
            failed = self.edits_meanwhile(gateways, &mut edits_ms) => return failed,
        };
        let count = self.fleet.programmed().await?;
        if count != size {
            let what =
                format!("the operator says that all of {size} are Ready; {count} are Programmed");
            return Err(Failure::Wrong(what));
        }
        operator.quiet(self.options.limit).await?;
        let processor_s = operator.processor_s()? - processor;
        let after = operator.metrics().await;
        let writes = cluster::writes(&self.client).await?.since(&writes);
        let sheet = &mut self.sheet;
        let what = ("burst_created_s", "attachments created, all", "s");
        sheet.add(what, created, None);
        let what = ("burst_programmed_s", "first created to all Programmed", "s");
        sheet.add(what, programmed, self.goals.burst_s);
        let what = (
            "burst_edit_max_ms",
            "policy edit to pod's ack meanwhile, longest",
            "ms",
        );
        sheet.add(what, quantile(&edits_ms, 1.0).unwrap_or(f64::NAN), None);
        self.burst_costs(processor_s, (&metrics, &after), &writes);
        Ok(())
    }

    fn burst_costs(
        &mut self,
        processor_s: f64,
        (before, after): (&Exposition, &Exposition),
        writes: &Writes,
    ) {
        let each = f64::from(self.fleet.attachments);
        let sheet = &mut self.sheet;
        let what = ("burst_status_writes", "status writes an attachment", "");
        let status = writes.of("connectorattachments/status") / each;
        sheet.add(what, status, Some(self.goals.status_writes));
        let what = (
            "burst_processor_ms",
            "operator's processor time an attachment",
            "ms",
        );
        sheet.add(what, processor_s * 1e3 / each, None);
        for (q, what) in [
            (
                0.5,
                (
                    "burst_pass_p50_ms",
                    "pass in the burst with its writes, p50",
                    "ms",
                ),
            ),
            (
                0.99,
                (
                    "burst_pass_p99_ms",
                    "pass in the burst with its writes, p99",
                    "ms",
                ),
            ),
        ] {
            let pass = after.quantile(before, PASSES, q).unwrap_or(f64::NAN);
            sheet.add(what, pass * 1e3, None);
        }
        sheet.note(format!("writes in the burst, by everybody: {writes}"));
        sheet.note(steps("a pass in the burst", before, after));
    }

    /// Edits policies until dropped.
    async fn edits_meanwhile(
        &self,
        gateways: &Gateways,
        took_ms: &mut Vec<f64>,
    ) -> Result<(), Failure> {
        for number in self.options.edits.. {
            tokio::time::sleep(EDIT_EVERY).await;
            took_ms.push(self.edit(gateways, number).await?);
        }
        Ok(())
    }

    /// Edits one policy; until its pod acknowledged, in milliseconds.
    async fn edit(&self, gateways: &Gateways, number: u32) -> Result<f64, Failure> {
        let edit = self.fleet.edit_of(number);
        let begun = Instant::now();
        self.fleet.edit(number).await?;
        let ran = gateways.ran(&edit, self.options.limit).await?;
        Ok(ran.saturating_duration_since(begun).as_secs_f64() * 1e3)
    }

    /// Nothing happens.
    async fn rest(&mut self, operator: &Operator) -> Result<(), Failure> {
        let (metrics, writes) = (
            operator.metrics().await,
            cluster::writes(&self.client).await?,
        );
        let processor = operator.processor_s()?;
        tokio::time::sleep(self.options.rest).await;
        let processor = operator.processor_s()? - processor;
        let after = operator.metrics().await;
        let writes = cluster::writes(&self.client).await?.since(&writes);
        let memory = operator.memory()?;
        let sheet = &mut self.sheet;
        let what = ("rss_loaded_mb", "memory, everything Programmed", "MB");
        sheet.add(what, memory.resident_mb, self.goals.rss_loaded_mb);
        let what = ("rss_peak_mb", "memory, most since the start", "MB");
        sheet.add(what, memory.peak_mb, None);
        let what = ("rest_operator_writes", "writes of the operator at rest", "");
        sheet.add(what, after.own_writes() - metrics.own_writes(), Some(0.0));
        let what = (
            "rest_writes",
            "writes of anybody at rest, without Leases",
            "",
        );
        sheet.add(what, writes.total(), Some(0.0));
        let rest = self.options.rest.as_secs_f64();
        let what = (
            "rest_processor_percent",
            "operator's processor at rest",
            "% of a core",
        );
        sheet.add(what, processor / rest * 100.0, None);
        if writes.total() > 0.0 {
            sheet.note(format!("writes at rest: {writes}"));
        }
        Ok(())
    }

    /// Policy edits, one after another.
    async fn edits(&mut self, operator: &Operator, gateways: &Gateways) -> Result<(), Failure> {
        let metrics = operator.metrics().await;
        let processor = operator.processor_s()?;
        let mut took_ms = Vec::new();
        for number in 0..self.options.edits {
            took_ms.push(self.edit(gateways, number).await?);
            // People edit at any moment of a pass.
            let pause = 200 + u64::from(number) * 37 % 200;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        operator.quiet(self.options.limit).await?;
        let after = operator.metrics().await;
        let processor = operator.processor_s()? - processor;
        let of = |q| quantile(&took_ms, q).unwrap_or(f64::NAN);
        let sheet = &mut self.sheet;
        sheet.add(
            ("edit_p50_ms", "policy edit to pod's ack, p50", "ms"),
            of(0.5),
            None,
        );
        let what = ("edit_p99_ms", "policy edit to pod's ack, p99", "ms");
        sheet.add(what, of(0.99), Some(self.goals.edit_p99_ms));
        let pass = |metric, q| after.quantile(&metrics, metric, q).unwrap_or(f64::NAN) * 1e3;
        let what = ("pass_p50_ms", "pass with its writes, p50", "ms");
        sheet.add(what, pass(PASSES, 0.5), None);
        let what = ("pass_p99_ms", "pass with its writes, p99", "ms");
        sheet.add(what, pass(PASSES, 0.99), self.goals.pass_p99_ms);
        let what = ("spread_p99_ms", "Snapshot's change to its acks, p99", "ms");
        sheet.add(what, pass(SPREAD, 0.99), None);
        let edits = f64::from(self.options.edits);
        let what = (
            "edit_processor_ms",
            "operator's processor time an edit",
            "ms",
        );
        sheet.add(what, processor * 1e3 / edits, None);
        let what = ("edit_writes", "writes of the operator an edit", "");
        sheet.add(
            what,
            (after.own_writes() - metrics.own_writes()) / edits,
            None,
        );
        sheet.note(steps("a pass after an edit", &metrics, &after));
        Ok(())
    }

    /// Another operator starts with everything there.
    async fn restart(&mut self, gateways: &Gateways) -> Result<Operator, Failure> {
        let limit = self.options.limit;
        let before = cluster::writes(&self.client).await?;
        let versions = self.fleet.versions().await?;
        let operator = self.operator()?;
        let ready = operator.ready(limit).await?;
        let leads = operator.leads(limit).await?;
        until("every pod is connected again", limit, async || {
            Ok(gateways.connected())
        })
        .await?;
        operator
            .all_ready(ATTACHMENT, self.fleet.attachments, limit)
            .await?;
        operator.all_ready(POINT, self.fleet.points, limit).await?;
        operator.quiet(limit).await?;
        let metrics = operator.metrics().await;
        let writes = cluster::writes(&self.client).await?.since(&before);
        let now = self.fleet.versions().await?;
        let changed = versions
            .iter()
            .filter(|(name, version)| now.get(*name) != Some(*version));
        let changed = f64::from(u32::try_from(changed.count()).unwrap_or(u32::MAX));
        let sheet = &mut self.sheet;
        let what = ("restart_ready_s", "start to ready, everything there", "s");
        sheet.add(what, ready.as_secs_f64(), self.goals.start_s);
        let what = ("restart_leads_s", "start to leading", "s");
        sheet.add(what, leads.as_secs_f64(), None);
        let status = metrics.sum("masque_operator_status_writes_total", &[]);
        let what = ("restart_status_writes", "status writes after a start", "");
        sheet.add(what, status, Some(0.0));
        let children = metrics.sum("masque_operator_child_writes_total", &[]);
        let what = (
            "restart_child_applies",
            "children applied once after a start",
            "",
        );
        sheet.add(what, children, None);
        let what = ("restart_changed", "objects that a start changed", "");
        sheet.add(what, changed, Some(0.0));
        let what = ("restart_rss_peak_mb", "memory, most of the start", "MB");
        sheet.add(what, operator.memory()?.peak_mb, None);
        sheet.note(format!("writes after a start, by everybody: {writes}"));
        Ok(operator)
    }

    /// The API server ends and starts; watches begin anew with a list.
    async fn relist(&mut self, operator: &Operator, gateways: &Gateways) -> Result<(), Failure> {
        let limit = self.options.limit;
        tokio::time::sleep(SETTLE).await;
        let steady = operator.memory()?.resident_mb;
        operator.forget_peak()?;
        let before = operator.metrics().await;
        self.cluster.restart_api_server().await?;
        operator.leads(limit).await?;
        // Watches that failed begin again within five seconds.
        tokio::time::sleep(SETTLE * 2).await;
        operator
            .all_ready(ATTACHMENT, self.fleet.attachments, limit)
            .await?;
        operator.quiet(limit).await?;
        let after = operator.metrics().await;
        let memory = operator.memory()?;
        let grown = |metric, labels: &[(&str, &str)]| {
            after.sum(metric, labels) - before.sum(metric, labels)
        };
        let lists = grown("masque_operator_api_requests_total", &[("verb", "get")]);
        let sheet = &mut self.sheet;
        let what = ("relist_peak_ratio", "memory, most of a relist ÷ before", "");
        sheet.add(what, memory.peak_mb / steady, Some(self.goals.relist_ratio));
        let what = ("relist_peak_mb", "memory, most of a relist", "MB");
        sheet.add(what, memory.peak_mb, None);
        let what = ("relist_writes", "writes of the operator after a relist", "");
        sheet.add(what, after.own_writes() - before.own_writes(), Some(0.0));
        sheet.note(format!(
            "API server restarted: {lists} lists and gets, {} watch errors, streams open: {}",
            grown("masque_operator_watch_errors_total", &[]),
            gateways.connected()
        ));
        Ok(())
    }

    /// Everything goes.
    async fn delete(&mut self, operator: &Operator) -> Result<(), Failure> {
        let limit = self.options.limit;
        let begun = Instant::now();
        self.fleet.delete_all().await?;
        let asked = begun.elapsed().as_secs_f64();
        for kind in [ATTACHMENT, POINT] {
            operator.all_ready(kind, 0, limit).await?;
        }
        let noticed = begun.elapsed().as_secs_f64();
        tokio::time::sleep(self.options.rest).await;
        let resident = operator.memory()?.resident_mb;
        let sheet = &mut self.sheet;
        sheet.add(
            ("delete_s", "everything deleted at the API server", "s"),
            asked,
            None,
        );
        let what = (
            "delete_noticed_s",
            "first deletion to the operator has nothing",
            "s",
        );
        sheet.add(what, noticed, None);
        let what = ("rss_after_mb", "memory, after everything was deleted", "MB");
        sheet.add(
            what,
            resident,
            Some(self.goals.rss_idle_mb * self.goals.back),
        );
        sheet.note(format!(
            "load of the machine at the end: {:.1}",
            machine::load()
        ));
        Ok(())
    }
}

/// The mean time of each step of the passes between two scrapes.
fn steps(what: &str, before: &Exposition, after: &Exposition) -> String {
    let grown = |part: &str, step: &str| {
        let (metric, labels) = (format!("{STEPS}_{part}"), [("step", step)]);
        after.sum(&metric, &labels) - before.sum(&metric, &labels)
    };
    let names = [
        "lookups",
        "compile",
        "addresses",
        "publish",
        "children",
        "acks",
        "status",
    ];
    let parts = names.map(|step| {
        let mean = grown("sum", step) / grown("count", step).max(1.0);
        format!("{step} {:.1} ms", mean * 1e3)
    });
    let count = grown("count", "status");
    format!("{what}, mean of {count}: {}", parts.join(", "))
}
