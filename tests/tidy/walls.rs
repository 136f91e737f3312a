//! Who may import whom: the walls of ARCHITECTURE.md as tables.

use crate::Finding;
use crate::source::SourceFile;

/// A room of `src/`, and the rooms that it may import. What is not listed is a wall.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("env", &["domain"]),
    ("tiers", &["domain", "env"]),
    ("movement", &["domain", "env", "tiers"]),
    ("manager", &["domain", "env", "tiers", "movement"]),
    ("sockets", &[]),
    ("events", &["domain", "env", "manager", "sockets"]),
    ("hints", &["domain"]),
    ("wire", &[]),
    ("service", &["domain", "env", "tiers", "movement", "manager", "sockets", "hints", "wire"]),
    ("client", &["domain", "env", "tiers", "wire"]),
    ("workload", &["domain", "env"]),
    ("sim", &["domain", "env", "tiers", "movement", "manager", "workload"]),
    ("observe", &["domain", "env", "tiers", "movement", "manager"]),
    // A store reads its own URL and names its own engines, and events read their own endpoints;
    // settings pass them through.
    ("config", &["domain", "env", "tiers", "events"]),
    (
        "cli",
        &[
            "domain", "env", "tiers", "movement", "manager", "sockets", "events", "hints", "wire",
            "service", "client", "workload", "sim", "observe", "config",
        ],
    ),
];

/// A crate, the only places that may know it, and what everybody else does instead.
const OUTSIDERS: &[(&str, &[&str], &str)] = &[
    ("cudarc", &["src/tiers/hbm/cuda/sys"], "go through the Device trait of tiers::hbm"),
    ("io_uring", &["src/tiers/nvme/uring"], "go through tiers::nvme::open"),
    ("aws_sdk_s3", &["src/tiers/object/s3"], "go through tiers::object::open"),
    ("aws_types", &["src/tiers/object/s3"], "go through tiers::object::open"),
    ("aws_config", &["src/tiers/object/s3"], "go through tiers::object::open"),
    ("aws_smithy_http_client", &["src/tiers/object/s3"], "go through tiers::object::open"),
    ("rustls_native_certs", &["src/tiers/object/s3"], "go through tiers::object::open"),
    ("prost", &["src/wire"], "convert to the daemon's own types in a convert module"),
    ("tonic", &["src/wire", "src/service", "src/client"], "go through client::Client"),
    ("clap", &["src/cli", "src/main.rs", "src/config/flags"], "take a value of config::Config"),
    ("toml", &["src/config"], "take a value of config::Config"),
];

/// Where the rules of the pure layers hold.
const PURE: &[&str] = &["src/domain/", "src/movement/", "src/manager/"];
const NOT_PURE: &[&str] = &["src/manager/shell"];

/// What the pure layers never touch, and what they do instead.
const IMPURE: &[(&str, &str)] = &[
    (
        "std::collections::HashMap",
        "use domain::block::KeyMap or BTreeMap: the same run must repeat",
    ),
    ("std::collections::HashSet", "use hashbrown with BuildKeyHasher or BTreeSet"),
    ("std::hash::RandomState", "use domain::block::BuildKeyHasher: the same run must repeat"),
    ("std::fs", "return an effect; manager::shell performs it"),
    ("std::io", "return an effect; manager::shell performs it"),
    ("std::net", "return an effect; manager::shell performs it"),
    ("std::os", "return an effect; manager::shell performs it"),
    ("std::process", "return an effect; manager::shell performs it"),
    ("std::env", "take the value as an argument; config reads the environment"),
    ("std::thread", "return an effect; manager::shell performs it"),
    ("std::sync", "the manager is the single writer: no locks, no atomics"),
    ("std::time::Instant", "take a Time as an argument"),
    ("std::time::SystemTime", "take a Time as an argument"),
    ("tokio", "return an effect; manager::shell performs it"),
    ("crossbeam_channel", "return an effect; manager::shell performs it"),
    ("rustix", "return an effect; manager::shell performs it"),
    ("libc", "return an effect; manager::shell performs it"),
    ("rand", "take a seeded generator or a number as an argument"),
    ("tracing", "say it in the status or an effect; the shell logs"),
    ("metrics", "count it in manager::api::Status; observe publishes that"),
];

fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first)).filter(|room| is_room(room))
}

fn is_room(name: &str) -> bool {
    ROOMS.iter().any(|(room, _)| *room == name)
}

/// How deep the file's module lies below the crate: `src/tiers/store.rs` is 2.
fn depth(path: &str) -> usize {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    let parts = inside.split('/').count();
    if inside.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// The room that a path leads to, if it leads through the crate's root.
fn target(named: &str, depth: usize) -> Option<&str> {
    let parts: Vec<&str> = named.split("::").collect();
    let supers = parts.iter().take_while(|part| **part == "super").count();
    let after = match *parts.first()? {
        "crate" => 1,
        "super" if supers >= depth => supers,
        _ => return None,
    };
    parts.get(after).copied().filter(|name| is_room(name))
}

/// Imports point down only.
pub fn rooms(file: &SourceFile) -> Vec<Finding> {
    let Some(room) = room_of(&file.path) else { return Vec::new() };
    let allowed = ROOMS.iter().find(|(name, _)| *name == room).map_or(&[][..], |(_, to)| to);
    let reaches = |named: &str| {
        target(named, depth(&file.path))
            .filter(|to| *to != room && !allowed.contains(to))
            .map(String::from)
    };
    file.paths()
        .iter()
        .filter_map(|named| {
            reaches(&named.path).map(|to| Finding {
                line: named.line,
                what: format!("`{room}` imports `{to}`"),
                remedy: format!(
                    "imports point down only: `{room}` may know {}. Move what both need into a \
                     room below, or pass it in from above",
                    if allowed.is_empty() { "no other room".into() } else { allowed.join(", ") }
                ),
            })
        })
        .collect()
}

/// Every room stands in the table, so that no new one escapes the walls.
pub fn known_rooms(file: &SourceFile) -> Vec<Finding> {
    if file.path != "src/lib.rs" {
        return Vec::new();
    }
    let code = file.code();
    let lines = code.lines().enumerate();
    lines
        .filter_map(|(index, line)| {
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let name = line.strip_prefix("mod ")?.strip_suffix(';')?;
            (!is_room(name)).then(|| Finding {
                line: index + 1,
                what: format!("the room `{name}` has no walls"),
                remedy: "add it to ROOMS in tests/tidy/walls.rs with the rooms that it may import"
                    .into(),
            })
        })
        .collect()
}

/// Each outside library that could spread is known in one place only.
pub fn outsiders(file: &SourceFile) -> Vec<Finding> {
    if !file.path.starts_with("src/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for named in file.paths() {
        for (name, homes, remedy) in OUTSIDERS {
            let at_home = homes.iter().any(|home| file.path.starts_with(home));
            let starts = named.path.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"));
            if starts && !at_home {
                found.push(Finding {
                    line: named.line,
                    what: format!("`{}`: only {} may know {name}", named.path, homes.join(", ")),
                    remedy: (*remedy).into(),
                });
            }
        }
    }
    found
}

/// The generated protobuf types stop at the convert modules.
pub fn protobuf(file: &SourceFile) -> Vec<Finding> {
    let in_src = file.path.starts_with("src/");
    if !in_src || file.path.starts_with("src/wire/") || file.path.contains("/convert") {
        return Vec::new();
    }
    // The stubs of client and server are no messages: they are how a call is made.
    let stub =
        |path: &str| path.contains("pb::terrace_server") || path.contains("pb::terrace_client");
    let knows = |path: &str| path.split("::").any(|part| part == "pb") && !stub(path);
    let paths = file.paths().into_iter().filter(|named| knows(&named.path));
    paths
        .map(|named| Finding {
            line: named.line,
            what: format!("`{}`: protobuf types outside a convert module", named.path),
            remedy: "convert in service/convert or client/convert and pass the daemon's own types \
                     on"
            .into(),
        })
        .collect()
}

/// The pure layers decide; they never act, wait, or ask the machine.
pub fn purity(file: &SourceFile) -> Vec<Finding> {
    let pure = PURE.iter().any(|room| file.path.starts_with(room))
        && !NOT_PURE.iter().any(|room| file.path.starts_with(room));
    if !pure {
        return Vec::new();
    }
    let mut found = Vec::new();
    for named in file.paths() {
        let within = |banned: &str| {
            named.path == banned
                || named.path.strip_prefix(banned).is_some_and(|rest| rest.starts_with("::"))
        };
        // A lone word such as `metrics` is a local name, not the crate.
        let hit = IMPURE.iter().find(|(banned, _)| within(banned) && named.path.contains("::"));
        found.extend(hit.map(|(_, remedy)| Finding {
            line: named.line,
            what: format!("`{}` in a pure layer", named.path),
            remedy: (*remedy).into(),
        }));
        if named.path == "async" || named.path == "await" {
            found.push(Finding {
                line: named.line,
                what: format!("`{}` in a pure layer", named.path),
                remedy: "return an effect; manager::shell performs it".into(),
            });
        }
    }
    found
}
