//! `terrace doctor`: what this machine offers, and what to mend.
//!
//! Leaves everything as it was: what it has to try, it tries in a folder that goes again, and it
//! never touches a running daemon.

mod daemon;
mod gpu;
mod machine;
mod object;
mod storage;

use serde::Serialize;

use super::output::{self, Table};
use super::{Failure, Outcome};
use crate::config::{Config, ConfigError, Flags, Places, Sources, ThisMachine};

/// Show what this machine offers and what to mend
///
/// Give it what `serve` is given: it says beforehand whether the daemon would start.
#[derive(clap::Args, Clone, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    flags: Flags,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// The daemon runs without it, slower or with less.
    Warn,
    /// The daemon does not start.
    Fail,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at. Fields are printed in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do, where something is to be done.
    remedy: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { check, verdict: Verdict::Warn, found: found.into(), remedy }
    }

    fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(check, found, remedy) }
    }
}

/// Looks at everything and prints what it found. Bad, if the daemon would not start.
///
/// # Errors
/// The config file that was named can't be read.
pub fn run(args: &DoctorArgs) -> Result<Outcome, Failure> {
    let sources = args.flags.sources()?;
    let checks = checks(&sources);
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    let value = serde_json::json!({ "verdict": worst, "checks": checks });
    output::show(args.json, &value, || text(&checks, worst))?;
    Ok(if worst == Verdict::Fail { Outcome::Bad } else { Outcome::Good })
}

fn checks(sources: &Sources) -> Vec<Check> {
    let config = Config::load(sources, &ThisMachine);
    let mut checks = settings(&config);
    let places = Places::load(sources, &ThisMachine);
    let runs = places.as_ref().is_ok_and(daemon::runs);
    checks.extend(machine::checks(config.as_ref().ok(), runs));
    checks.extend(gpu::checks(config.as_ref().ok()));
    if let Ok(places) = places {
        checks.extend(daemon::checks(&places, runs));
        let metrics = config.as_ref().ok().and_then(|config| config.metrics);
        checks.extend(metrics.filter(|_| !runs).map(daemon::metrics));
        let publisher = config.as_ref().ok().and_then(|config| config.events.publisher.as_ref());
        checks.extend(publisher.filter(|_| !runs).map(|it| daemon::events(it, &places)));
        checks.extend(storage::checks(&places, config.as_ref().ok(), runs));
    }
    checks
}

fn settings(config: &Result<Config, ConfigError>) -> Vec<Check> {
    const CHECK: &str = "settings";
    match config {
        Ok(config) if config.notes.is_empty() => vec![Check::ok(CHECK, "they fit this machine")],
        Ok(config) => {
            config.notes.iter().map(|note| Check::warn(CHECK, &note.found, &note.remedy)).collect()
        }
        Err(error) => {
            let found = format!("{}: {}", error.key, error.problem);
            vec![Check::fail(CHECK, found, &*error.remedy)]
        }
    }
}

fn text(checks: &[Check], worst: Verdict) -> String {
    let mut table = Table::new(3, ["check", "", "found"]);
    for Check { check, verdict, found, .. } in checks {
        table.row([(*check).into(), verdict.name().into(), found.clone()]);
    }
    let mut remedies = String::new();
    for check in checks {
        if let Some(remedy) = &check.remedy {
            remedies = format!("{remedies}{}: {remedy}\n", check.check);
        }
    }
    let said = match worst {
        Verdict::Ok => "Everything is as it should be.\n",
        Verdict::Warn => "The daemon runs here. To mend:\n",
        Verdict::Fail => "The daemon does not start here. To mend:\n",
    };
    format!("{table}\n{said}{remedies}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_stands_below_the_table() {
        let checks = [
            Check::ok("cpu", "fast"),
            Check::warn("huge pages", "none", "reserve some"),
            Check::fail("state folder", "read-only", "remount it"),
        ];
        insta::assert_snapshot!(text(&checks, Verdict::Fail));
    }

    #[test]
    fn this_machine_is_looked_at_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let flags = vec![("socket", path("t.sock")), ("state_dir", path("state"))];
        let env = vec![("HOME".to_owned(), path("home"))];
        let found = checks(&Sources { file: None, env, flags });
        for name in [
            "settings",
            "cpu",
            "gpu",
            "numa",
            "memory",
            "io_uring",
            "state folder",
            "socket",
            "object",
        ] {
            assert!(found.iter().any(|check| check.check == name), "no {name} in {found:?}");
        }
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn settings_that_do_not_fit_are_told_with_their_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let env = vec![("HOME".to_owned(), folder.path().to_string_lossy().into_owned())];
        let flags = vec![("dram.capacity", "900TiB".to_owned())];
        let found = checks(&Sources { file: None, env, flags });
        assert_eq!(found[0].verdict, Verdict::Fail);
        assert!(found[0].found.contains("dram.capacity"), "{found:?}");
    }
}
