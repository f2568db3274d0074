//! What the operator shall keep to, on two cores with the API server on loopback.

/// The most that each figure may be; `None` where a size has no goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goals {
    /// Start to ready with everything there.
    pub(crate) start_s: Option<f64>,
    /// First attachment created to all Programmed.
    pub(crate) burst_s: Option<f64>,
    /// Writes of status an attachment until it is settled.
    pub(crate) status_writes: f64,
    /// A pass at rest but for single edits.
    pub(crate) pass_p99_ms: Option<f64>,
    /// Policy edit to the acknowledgement of every pod.
    pub(crate) edit_p99_ms: f64,
    /// Memory without any object.
    pub(crate) rss_idle_mb: f64,
    /// Memory with everything in force.
    pub(crate) rss_loaded_mb: Option<f64>,
    /// Memory after a deletion ÷ without any object.
    pub(crate) back: f64,
    /// Most memory of a relist ÷ before.
    pub(crate) relist_ratio: f64,
}

impl Goals {
    /// The goals of a fleet with so many attachments: those of 1,000 for as many or fewer, those of
    /// 10,000 up to that.
    pub(crate) fn of(attachments: u32) -> Self {
        let (start_s, burst_s, pass_p99_ms, rss_loaded_mb) = match attachments {
            0..=1_000 => (Some(2.0), Some(10.0), Some(100.0), Some(60.0)),
            1_001..=10_000 => (Some(10.0), None, Some(250.0), Some(150.0)),
            _ => (None, None, None, None),
        };
        Self {
            start_s,
            burst_s,
            status_writes: 2.0,
            pass_p99_ms,
            edit_p99_ms: 500.0,
            rss_idle_mb: 30.0,
            rss_loaded_mb,
            back: 1.1,
            relist_ratio: 2.0,
        }
    }
}
