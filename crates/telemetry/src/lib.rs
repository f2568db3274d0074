//! Logs, the metrics registry and build information.
