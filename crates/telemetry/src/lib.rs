//! Logs, the text form of metrics, and build information; shared by every binary.
#![forbid(unsafe_code)]

mod build_info;
mod logs;
mod metrics;

pub use build_info::{BuildInfo, build_info};
pub use logs::{LogError, LogFormat, init_logs};
pub use metrics::{MetricsError, encode_text, register_build_info};
pub use prometheus;
