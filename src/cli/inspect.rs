//! `terrace inspect`: what a running daemon knows of one block.

use serde::Serialize;

use super::output::{self, Table};
use super::{DaemonArgs, Failure, PATIENCE};
use crate::client::{self, DaemonBlock};
use crate::domain::block::Key;
use crate::domain::residency::CopyState;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::env::{Clock, SystemClock};

/// Show what a running daemon knows of one block
#[derive(clap::Args, Clone, Debug)]
pub struct InspectArgs {
    /// The block's key: 32 hex digits, as logs and `inspect` print it
    #[arg(value_parser = key)]
    hash: Key,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

fn key(text: &str) -> Result<Key, String> {
    let is_key = text.len() == 2 * Key::BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(text, 16).ok().filter(|_| is_key);
    number.map(|number| Key(number.to_be_bytes())).ok_or_else(|| {
        format!("a block's key is {} hex digits, as the daemon's log prints it", 2 * Key::BYTES)
    })
}

/// Asks the daemon and prints its answer.
///
/// # Errors
/// No daemon answers, the settings don't say where, or the block is not there.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    let socket = args.daemon.places()?.socket;
    let block = super::ask(client::daemon_block(&socket, PATIENCE, args.hash))?;
    let shown = Shown::of(&block, SystemClock::start().now());
    Ok(output::show(args.json, &shown, || text(&shown))?)
}

/// The block as JSON; fields are printed in this order. What was not asked for is null.
#[derive(Serialize)]
struct Shown {
    key: String,
    parent: Option<String>,
    namespace: String,
    model: String,
    position: u32,
    age_s: f64,
    copies: Vec<ShownCopy>,
    priority: u8,
    priority_for_s: Option<f64>,
    shielded_for_s: Option<f64>,
    refresh_on_hit_s: Option<f64>,
    forgotten_in_s: Option<f64>,
    kind: &'static str,
    floor: &'static str,
    scope: &'static str,
    sessions: u32,
    dead: bool,
    leases: u32,
}

#[derive(Serialize)]
struct ShownCopy {
    tier: &'static str,
    state: &'static str,
}

impl Shown {
    fn of(block: &DaemonBlock, now: Time) -> Self {
        let copies = Tier::ALL.into_iter().zip(block.copies);
        let copies = copies
            .filter_map(|(tier, state)| Some(ShownCopy { tier: tier.name(), state: word(state)? }));
        let left = |until: Time| (until > now).then(|| until.since(now).as_secs_f64());
        let record = &block.record;
        let refresh_ms = Some(record.refresh_on_hit_ms).filter(|millis| *millis > 0);
        Self {
            key: block.key.to_string(),
            parent: block.parent.map(|parent| parent.to_string()),
            namespace: block.namespace.to_string(),
            model: block.model.clone(),
            position: block.position,
            age_s: now.since(block.created_at).as_secs_f64(),
            copies: copies.collect(),
            priority: record.priority,
            priority_for_s: left(record.priority_until),
            shielded_for_s: left(record.shield_until),
            refresh_on_hit_s: refresh_ms.map(|millis| f64::from(millis) / 1000.0),
            forgotten_in_s: (record.delete_after != Time::ZERO)
                .then(|| record.delete_after.since(now).as_secs_f64()),
            kind: record.kind.name(),
            floor: record.floor.name(),
            scope: record.scope.name(),
            sessions: block.claims,
            dead: block.dead,
            leases: block.leases,
        }
    }
}

const fn word(state: CopyState) -> Option<&'static str> {
    match state {
        CopyState::Absent => None,
        CopyState::Filling => Some("filling"),
        CopyState::Resident => Some("resident"),
        CopyState::Draining => Some("draining"),
    }
}

fn text(block: &Shown) -> String {
    let seconds = |time: Option<f64>| time.map(|time| format!("{time:.0} s"));
    let or = |text: Option<String>, without: &str| text.unwrap_or_else(|| without.to_owned());
    let copies: Vec<_> =
        block.copies.iter().map(|copy| format!("{} ({})", copy.tier, copy.state)).collect();
    let lasts = seconds(block.priority_for_s).map(|left| format!(" for {left}"));
    let priority = format!("{}{}", block.priority, lasts.unwrap_or_default());
    let shield = or(seconds(block.shielded_for_s).map(|left| format!("for {left}")), "none");
    let renewed = seconds(block.refresh_on_hit_s).map(|ttl| format!(", {ttl} from every hit"));
    let shield = shield + &renewed.unwrap_or_default();
    let mut table = Table::new(2, ["block", &block.key]);
    for (what, value) in [
        ("parent", or(block.parent.clone(), "none, it is its chain's root")),
        ("model", block.model.escape_debug().to_string()),
        ("namespace", block.namespace.clone()),
        ("position", block.position.to_string()),
        ("age", format!("{:.0} s", block.age_s)),
        ("copies", copies.join(", ")),
        ("kind", block.kind.into()),
        ("priority", priority),
        ("shield", shield),
        ("forgotten", or(seconds(block.forgotten_in_s).map(|left| format!("in {left}")), "never")),
        ("floor", block.floor.into()),
        ("scope", block.scope.into()),
        ("sessions", block.sessions.to_string()),
        ("dead", if block.dead { "yes, it goes first" } else { "no" }.into()),
        ("leases", block.leases.to_string()),
    ] {
        table.row([what.into(), value]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::namespace::NamespaceDigest;
    use crate::domain::retention::{Kind, RetentionRecord};

    const NOW: Time = Time::from_millis(1_000_000);

    fn example() -> Shown {
        let mut copies = [CopyState::Absent; Tier::COUNT];
        copies[Tier::Dram.index()] = CopyState::Draining;
        copies[Tier::Nvme.index()] = CopyState::Resident;
        let block = DaemonBlock {
            key: Key([0xab; 16]),
            parent: Some(Key([1; 16])),
            namespace: NamespaceDigest([7; 32]),
            model: "llama".into(),
            position: 12,
            created_at: Time::from_millis(940_000),
            record: RetentionRecord {
                priority: 80,
                shield_until: Time::from_millis(1_240_000),
                refresh_on_hit_ms: 300_000,
                kind: Kind::System,
                ..RetentionRecord::default()
            },
            copies,
            claims: 2,
            dead: false,
            leases: 1,
        };
        Shown::of(&block, NOW)
    }

    #[test]
    fn the_text_is_as_people_read_it() {
        insta::assert_snapshot!(text(&example()));
    }

    #[test]
    fn the_json_names_its_units() {
        insta::assert_json_snapshot!(example());
    }

    #[test]
    fn a_key_is_32_hex_digits() {
        assert_eq!(key(&"aB".repeat(16)), Ok(Key([0xab; 16])));
        for text in ["", "ab", &"ab".repeat(17), &"xy".repeat(16), &format!("+{}", "a".repeat(31))]
        {
            assert!(key(text).unwrap_err().contains("32 hex digits"), "{text}");
        }
    }
}
