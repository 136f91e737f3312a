//! Log lines on stderr, by level and module.

use std::io::{self, IsTerminal};

use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// How much of a module is logged; the empty module is everything of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel {
    pub module: String,
    /// Nothing where there is none.
    pub level: Option<Level>,
}

/// Logs from now on, once a process: a second call changes nothing.
///
/// What other libraries log is shown from warnings up.
pub fn start_log(levels: &[LogLevel], format: LogFormat) {
    let filter = filter(levels);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    // A second call is a test or an embedding that has a log of its own.
    let _ = match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
}

fn filter(levels: &[LogLevel]) -> EnvFilter {
    let base = EnvFilter::default().add_directive(LevelFilter::WARN.into());
    levels.iter().fold(base, |filter, LogLevel { module, level }| {
        let separator = if module.is_empty() { "" } else { "::" };
        let level = level.map_or("off".to_owned(), |level| level.to_string());
        let directive = format!("terrace{separator}{module}={level}");
        match directive.parse() {
            Ok(directive) => filter.add_directive(directive),
            // The config checked the module; what it let through that is no module logs nothing.
            Err(_) => filter,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_become_directives() {
        let level = |module: &str, level| LogLevel { module: module.into(), level };
        let levels = [
            level("", Some(Level::INFO)),
            level("tiers::nvme", Some(Level::DEBUG)),
            level("cli", None),
        ];
        let text = filter(&levels).to_string();
        for part in ["warn", "terrace=info", "terrace::tiers::nvme=debug", "terrace::cli=off"] {
            assert!(text.split(',').any(|found| found == part), "no `{part}` in {text}");
        }
    }
}
