//! CoDel (RFC 8289): tells a flow when its packets have waited longer than the target for a whole
//! interval, and more and more often as long as that does not change.

/// How long a packet may wait for good (RFC 8289 §4.4).
pub(super) const TARGET_US: u64 = 5_000;
/// How long it may wait longer: some round trips of the widest paths (RFC 8289 §4.3).
pub(super) const INTERVAL_US: u64 = 100_000;
/// A flow that was told so recently goes on about as often as it was told.
const REMEMBERED_INTERVALS: u64 = 16;
/// One super-packet alone is no queue, however long a narrow path takes for it (RFC 8289 §5.4:
/// "less than an MTU's worth of bytes").
const ONE_PACKET_BYTES: usize = 1_514;

/// The state of one flow.
#[derive(Debug, Default)]
pub(super) struct Codel {
    /// When the interval above the target ends that has begun.
    due_us: Option<u64>,
    signalling: bool,
    /// When to tell it next, or when it was due last.
    next_us: u64,
    /// How often it was told since that began.
    count: u32,
    /// The same at the beginning of this time.
    first_count: u32,
}

impl Codel {
    /// Whether to tell the flow with this packet, which waited for `waited_us`, with
    /// `behind_bytes` of the flow behind it.
    pub(super) fn judge(&mut self, now_us: u64, waited_us: u64, behind_bytes: usize) -> bool {
        let standing = self.is_standing(now_us, waited_us, behind_bytes);
        if self.signalling {
            self.signalling = standing;
            let due = standing && now_us >= self.next_us;
            if due {
                self.count += 1;
                self.next_us = control_law(self.next_us, self.count);
            }
            return due;
        }
        if standing {
            self.begin(now_us);
        }
        standing
    }

    fn begin(&mut self, now_us: u64) {
        self.signalling = true;
        let since_us = now_us.saturating_sub(self.next_us);
        let told = self.count.saturating_sub(self.first_count);
        let recently = since_us < REMEMBERED_INTERVALS * INTERVAL_US;
        self.count = if told > 1 && recently { told } else { 1 };
        self.first_count = self.count;
        self.next_us = control_law(now_us, self.count);
    }

    /// Whether packets have waited above the target for an interval.
    fn is_standing(&mut self, now_us: u64, waited_us: u64, behind_bytes: usize) -> bool {
        if waited_us < TARGET_US || behind_bytes <= ONE_PACKET_BYTES {
            self.due_us = None;
            return false;
        }
        now_us >= *self.due_us.get_or_insert(now_us + INTERVAL_US)
    }
}

/// "the next drop time is decreased in inverse proportion to the square root of the number of
/// drops since the dropping state was entered" (RFC 8289 §3.2).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "between one interval and nothing"
)]
fn control_law(from_us: u64, count: u32) -> u64 {
    from_us + (INTERVAL_US as f64 / f64::from(count.max(1)).sqrt()) as u64
}
