//! `terrace sessions`: which agents' conversations a running daemon knows, and what each one holds.

use serde::Serialize;

use super::output::{self, Table};
use super::{DaemonArgs, Failure, PATIENCE};
use crate::client::{self, DaemonSession, DaemonSessions};
use crate::domain::session::{SessionState, Stop};
use crate::domain::units::Time;
use crate::env::{Clock, SystemClock};

/// Show the sessions that a running daemon knows
#[derive(clap::Args, Clone, Debug)]
pub struct SessionsArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Show so many at most, those heard of last
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    max: u32,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Asks the daemon and prints its answer.
///
/// # Errors
/// No daemon answers, or the settings don't say where.
pub fn run(args: &SessionsArgs) -> Result<(), Failure> {
    let socket = args.daemon.places()?.socket;
    let known = super::ask(client::daemon_sessions(&socket, PATIENCE, args.max))?;
    let now = SystemClock::start().now();
    Ok(output::show(args.json, &Shown::of(&known, now), || text(&known, now))?)
}

/// The sessions as JSON; fields are printed in this order.
#[derive(Serialize)]
struct Shown<'a> {
    sessions_total: u64,
    sessions: Vec<ShownSession<'a>>,
}

#[derive(Serialize)]
struct ShownSession<'a> {
    session: &'a str,
    parent: Option<&'a str>,
    model: &'a str,
    namespace: String,
    state: &'static str,
    stop: Option<&'static str>,
    expected_in_s: Option<f64>,
    silent_s: f64,
    blocks: u32,
    own_blocks: u32,
}

impl<'a> Shown<'a> {
    fn of(known: &'a DaemonSessions, now: Time) -> Self {
        let sessions = known.sessions.iter().map(|session| ShownSession::of(session, now));
        Self { sessions_total: known.sessions_total, sessions: sessions.collect() }
    }
}

impl<'a> ShownSession<'a> {
    fn of(session: &'a DaemonSession, now: Time) -> Self {
        let expected = match session.state {
            SessionState::InTool { expected } => expected,
            _ => None,
        };
        let (state, stop) = words(session.state);
        Self {
            session: &session.session,
            parent: session.parent.as_deref(),
            model: &session.model,
            namespace: session.namespace.to_string(),
            state,
            stop,
            expected_in_s: expected.map(|time| time.since(now).as_secs_f64()),
            silent_s: now.since(session.last_seen).as_secs_f64(),
            blocks: session.blocks,
            own_blocks: session.own_blocks,
        }
    }
}

/// What a session does, and why the model stopped where it did.
const fn words(state: SessionState) -> (&'static str, Option<&'static str>) {
    match state {
        SessionState::Idle => ("idle", None),
        SessionState::Running => ("running", None),
        SessionState::Stopped(Stop::ToolUse) => ("stopped", Some("tool_use")),
        SessionState::Stopped(Stop::EndTurn) => ("stopped", Some("end_turn")),
        SessionState::Stopped(Stop::Unknown) => ("stopped", None),
        SessionState::InTool { .. } => ("in_tool", None),
    }
}

fn text(known: &DaemonSessions, now: Time) -> String {
    let mut table =
        Table::new(4, ["session", "parent", "model", "state", "silent", "blocks", "own"]);
    for session in &known.sessions {
        let shown = ShownSession::of(session, now);
        let state = match (shown.stop, shown.expected_in_s) {
            (Some(stop), _) => format!("{}: {stop}", shown.state),
            (None, Some(seconds)) => format!("{}, back in {seconds:.0} s", shown.state),
            (None, None) => shown.state.to_owned(),
        };
        table.row([
            shown.session.escape_debug().to_string(),
            shown.parent.unwrap_or("-").escape_debug().to_string(),
            shown.model.escape_debug().to_string(),
            state,
            format!("{:.0} s", shown.silent_s),
            shown.blocks.to_string(),
            shown.own_blocks.to_string(),
        ]);
    }
    let (shown, total) = (known.sessions.len(), known.sessions_total);
    format!("{table}\n{shown} of {total} sessions\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::namespace::NamespaceDigest;

    const NOW: Time = Time::from_millis(1_000_000);

    fn example() -> DaemonSessions {
        let session = |name: &str, parent: Option<&str>, state| DaemonSession {
            session: name.into(),
            parent: parent.map(str::to_owned),
            namespace: NamespaceDigest([7; 32]),
            model: "llama".into(),
            state,
            last_seen: Time::from_millis(988_500),
            blocks: 40,
            own_blocks: 3,
        };
        let expected = Some(Time::from_millis(1_009_000));
        DaemonSessions {
            sessions: vec![
                session("agent-1", None, SessionState::InTool { expected }),
                session("agent-1/\u{1b}[31m", Some("agent-1"), SessionState::Running),
                session("agent-2", None, SessionState::Stopped(Stop::EndTurn)),
            ],
            sessions_total: 12,
        }
    }

    #[test]
    fn the_text_is_as_people_read_it() {
        insta::assert_snapshot!(text(&example(), NOW));
    }

    #[test]
    fn the_json_names_its_units() {
        let shown = serde_json::to_value(Shown::of(&example(), NOW)).unwrap();
        insta::assert_json_snapshot!(shown["sessions"][0]);
    }
}
