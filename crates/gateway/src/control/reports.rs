//! What the gateway says of itself.

use std::sync::atomic::Ordering;

use masque_telemetry::MetricsError;
use tokio::sync::oneshot;

use super::{Control, REPORT_TIMEOUT};
use crate::{
    command::{Command, ShardReport},
    report::{PoolReport, SessionReport, StatusReport, VpcReport},
};

impl Control {
    /// All shards' reports; a shard that does not answer is left out.
    async fn reports(&self, sessions: bool) -> Vec<ShardReport> {
        let mut waiting = Vec::new();
        for shard in (0..self.shards()).filter_map(|s| u16::try_from(s).ok()) {
            waiting.push(self.ask(shard, sessions));
        }
        let mut reports = Vec::new();
        // One end for all: shards that are stuck together are waited for once.
        let end = tokio::time::Instant::now() + REPORT_TIMEOUT;
        for answer in waiting {
            if let Ok(Ok(report)) = tokio::time::timeout_at(end, answer).await {
                reports.push(report);
            }
        }
        reports
    }

    /// Asks one shard for its report; an error comes at once when its mailbox takes no more.
    pub(super) fn ask(&self, shard: u16, sessions: bool) -> oneshot::Receiver<ShardReport> {
        let (reply, answer) = oneshot::channel();
        self.send(shard, Command::Report { sessions, reply });
        answer
    }

    /// Every session, by number.
    pub(crate) async fn sessions(&self) -> Vec<SessionReport> {
        let mut sessions: Vec<SessionReport> = self
            .reports(true)
            .await
            .into_iter()
            .flat_map(|report| report.sessions)
            .collect();
        sessions.sort_by_key(|session| session.id);
        sessions
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// [`MetricsError`] when a metric has no text form.
    pub(crate) async fn metrics_text(&self) -> Result<String, MetricsError> {
        // One at a time: however many scrape, packet threads are asked by one of them.
        let _turn = self.scrape.lock().await;
        let reports = self.reports(false).await;
        self.metrics.text(
            &reports,
            &self.vpc_reports(),
            &self.tables(),
            &self.devices.load(),
            self.devices_reopened.load(Ordering::Relaxed),
        )
    }

    /// The gateway as a whole.
    pub(crate) async fn status(&self) -> StatusReport {
        StatusReport {
            version: masque_telemetry::build_info().version.to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            not_ready: self.not_ready_because(),
            ports: self.sites().ports().collect(),
            shards: self.shards(),
            vpcs: self.vpc_reports(),
            problems: self.devices.load().problems.clone(),
        }
    }

    fn vpc_reports(&self) -> Vec<VpcReport> {
        let devices = self.devices.load();
        let registry = self.registry();
        registry
            .snapshots()
            .map(|snapshot| VpcReport {
                vpc: snapshot.vpc.to_string(),
                ingress_point: snapshot.ingress_point.to_string(),
                snapshot_version: snapshot.version,
                decapsulation: devices.decapsulation.clone(),
                device: devices
                    .tun
                    .get(&snapshot.ingress_point)
                    .cloned()
                    .unwrap_or_default(),
                attachments: snapshot.attachments.len(),
                sessions: registry.session_count_of(&snapshot.ingress_point),
                pools: registry
                    .pools(&snapshot.ingress_point)
                    .into_iter()
                    .map(|pool| PoolReport {
                        prefix: pool.prefix,
                        total: pool.total,
                        allocated: pool.allocated + pool.resting,
                    })
                    .collect(),
            })
            .collect()
    }
}
