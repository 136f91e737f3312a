//! What the daemon shows of itself: log lines on stderr, metrics for Prometheus.
//!
//! Only shows: nothing here changes what the daemon does, and nothing is logged or counted for
//! every block. The endpoint is off unless it is asked for.

mod lines;
mod log;
pub mod names;
mod publish;
mod recorder;
mod scrape;

pub use log::{LogFormat, LogLevel, flush_log, start_daemon_log, start_log};
pub use publish::publish;
pub use recorder::{MetricsError, start_metrics};
pub use scrape::CONNECTIONS_MAX;
