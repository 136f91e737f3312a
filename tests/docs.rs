//! Documentation that is made from tables in the code, held equal to them.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes the made parts anew; nothing else is touched.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use terrace::config::{KEYS, Kind};
use terrace::domain::namespace::NamespaceDigest;
use terrace::hints::{Hashes, envelope};
use terrace::observe::names::METRICS;
use terrace::workload::trace::Trace;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The page's made part is `made`: it stands between the two comments.
fn check(page: &str, made: &str) {
    let path = root().join(page);
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once("cargo test --test docs -->\n").unwrap();
    let (found, tail) = rest.split_once("<!-- end -->").unwrap();
    let made = format!("\n{made}\n");
    if found == made {
        return;
    }
    assert!(
        std::env::var_os("UPDATE_DOCS").is_some(),
        "{page} is not what the code says: run UPDATE_DOCS=1 cargo test --test docs, and look at \
         the difference"
    );
    let head = format!("{head}cargo test --test docs -->\n");
    fs::write(&path, format!("{head}{made}<!-- end -->{tail}")).unwrap();
}

#[test]
fn every_setting_is_documented() {
    let rows = KEYS.iter().map(|key| {
        let takes = match key.kind {
            Kind::Choice(words) => as_code(words).join(" or "),
            Kind::Count { min, max } => format!("{min} to {max}"),
            Kind::Bool => "`true` or `false`".into(),
            Kind::Size => "a size".into(),
            Kind::Duration => "a time".into(),
            Kind::Path => "an absolute path, or one from `~/`".into(),
            Kind::Text => "text".into(),
        };
        let default = if key.default.contains(' ') {
            key.default.to_owned()
        } else {
            format!("`{}`", key.default)
        };
        format!(
            "### `{}`\n\n{}\n\n- takes {takes}\n- default: {default}\n- also `{}` and `--{}`\n",
            key.name,
            key.about,
            key.env(),
            key.flag()
        )
    });
    check("docs/config.md", &rows.collect::<Vec<_>>().join("\n"));
}

/// The examples of the page, and what the code makes of them.
#[test]
fn every_example_of_hints_is_understood() {
    let text = fs::read_to_string(root().join("docs/hints.md")).unwrap();
    let blocks = text.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let (envelopes, targets): (Vec<_>, Vec<_>) =
        blocks.partition(|block| block.contains("protocol_version"));
    let understood = |json: &str| {
        let mut hashes = Hashes::new(NamespaceDigest([7; 32]), 8, 16);
        let (actions, _) = envelope::read(json.as_bytes(), &mut hashes).unwrap().batch.split();
        actions.len()
    };
    assert_eq!(envelopes.iter().map(|json| understood(json)).collect::<Vec<_>>(), [2]);
    let targets: Vec<_> = targets[0].lines().collect();
    assert_eq!(targets.len(), 3);
    for target in targets {
        let action = format!(
            r#"{{"action_id": "a", "action_type": "release", "action_version": "1",
                "payload": {{"target": {target}}}}}"#
        );
        let json =
            format!(r#"{{"protocol_version": "0.1", "message_id": "m", "actions": [{action}]}}"#);
        assert_eq!(understood(&json), 1, "{target}");
    }
    for action in envelope::ACTION_TYPES {
        assert!(text.contains(&format!("`{action}`")), "docs/hints.md says nothing of {action}");
    }
}

/// The example of the page is a whole trace.
#[test]
fn the_example_of_a_trace_is_taken() {
    let text = fs::read_to_string(root().join("docs/traces.md")).unwrap();
    let example = text.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), example).unwrap();
    let info = *Trace::open(file.path()).unwrap().info();
    assert_eq!((info.format.name(), info.requests, info.unique_blocks), ("kvtrace-rle-1", 3, 5));
}

fn as_code(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| format!("`{word}`")).collect()
}

#[test]
fn every_metric_is_documented() {
    let rows = METRICS.iter().map(|metric| {
        let (kind, unit) = (metric.kind.name(), metric.unit.name());
        let labels = as_code(metric.labels).join(" ");
        format!("| `{}` | {kind} | {unit} | {labels} | {} |\n", metric.name, metric.about)
    });
    let head = "| name | kind | unit | labels | meaning |\n|---|---|---|---|---|\n";
    let made = format!("{head}{}", rows.collect::<String>());
    check("docs/metrics.md", &made);
}

#[test]
fn every_metric_that_is_recorded_stands_in_the_table() {
    let known: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    let mut recorded = BTreeSet::new();
    // Kernels are called like metrics, and record none.
    let kernels = root().join("src/tiers/hbm/cuda");
    let files = rust_files(&root().join("src"));
    for path in files.iter().filter(|path| !path.starts_with(&kernels)) {
        let text = fs::read_to_string(path).unwrap();
        for (at, _) in text.match_indices("\"terrace_") {
            let rest = &text[at + 1..];
            let name = &rest[..rest.find('"').unwrap_or(rest.len())];
            // The prefix alone and names with dots are no metrics.
            let is_metric = !name.ends_with('_');
            if is_metric && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                assert!(
                    known.contains(name),
                    "{} names `{name}`: add it to src/observe/names.rs, or call it otherwise",
                    path.display()
                );
                recorded.insert(name.to_owned());
            }
        }
    }
    assert_eq!(recorded.len(), known.len(), "the walk found {recorded:?}");
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}
