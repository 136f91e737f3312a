//! The house rules that review would otherwise say twice, with their remedies.
//!
//! Every rule is a function from a file to findings, and each is shown to find what it is for in
//! `rules_find`. Checks the text of the tree only: it builds and runs nothing.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "tidy/form.rs"]
mod form;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/walls.rs"]
mod walls;

use std::fs;
use std::path::Path;

use source::SourceFile;

/// A place where a rule is broken, and what to do about it.
#[derive(Debug)]
pub struct Finding {
    line: usize,
    what: String,
    remedy: String,
}

type Rule = fn(&SourceFile) -> Vec<Finding>;

const RULES: &[(&str, Rule)] = &[
    ("rooms", walls::rooms),
    ("known_rooms", walls::known_rooms),
    ("outsiders", walls::outsiders),
    ("protobuf", walls::protobuf),
    ("purity", walls::purity),
    ("length", form::length),
    ("module_doc", form::module_doc),
    ("leftovers", form::leftovers),
    ("machine_paths", form::machine_paths),
];

/// Folders whose contents are made, not written.
const MADE: &[&str] = &["target", ".git", "corpus", "artifacts", "node_modules", ".venv"];

/// Files that a tool writes.
const MADE_FILES: &[&str] = &["Cargo.lock", ".git"];

/// The written text files of the repository.
fn tree() -> Vec<SourceFile> {
    let mut files = Vec::new();
    collect(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut files);
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the walk misses src/lib.rs");
    files
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<SourceFile>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !MADE.contains(&name.as_str()) {
            collect(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_file() && !MADE_FILES.contains(&name.as_str()) {
            // What is not UTF-8 is data, not writing.
            files.extend(
                fs::read_to_string(entry.path()).ok().map(|text| SourceFile { path, text }),
            );
        }
    }
}

#[test]
fn the_tree_keeps_every_rule() {
    let files = tree();
    let mut said = Vec::new();
    for file in &files {
        for (name, rule) in RULES {
            for Finding { line, what, remedy } in rule(file) {
                said.push(format!("{}:{line}: {what} [{name}]\n    remedy: {remedy}", file.path));
            }
        }
    }
    assert!(said.is_empty(), "\n{}", said.join("\n"));
    for file in files.iter().filter(|file| file.is_rust()) {
        let lines = file.text.lines().count();
        if lines > form::FILE_LINES_WISH {
            eprintln!("{}: {lines} lines: does it still have one idea?", file.path);
        }
    }
}

/// Which rules find something in `text` if it stood at `path`.
fn found(path: &str, text: &str) -> Vec<&'static str> {
    let file = SourceFile::new(path, text);
    RULES.iter().filter(|(_, rule)| !rule(&file).is_empty()).map(|(name, _)| *name).collect()
}

fn check(path: &str, body: &str, expected: &[&str]) {
    assert_eq!(found(path, &format!("//! A module.\n{body}\n")), expected, "{path}: {body}");
}

#[test]
fn rules_find() {
    // Walls between rooms, however the import is spelled.
    check("src/domain/block.rs", "use crate::env::Clock;", &["rooms"]);
    check("src/env/mod.rs", "use crate::domain::units::Time;", &[]);
    check("src/tiers/store.rs", "use crate::{domain::block::Key, manager::api};", &["rooms"]);
    check("src/tiers/store.rs", "use super::super::manager::api;", &["rooms"]);
    check("src/tiers/store.rs", "use super::frame::FrameHeader;", &[]);
    check("src/manager/mod.rs", "use super::service::Server;", &["rooms"]);
    check("src/service/server.rs", "fn f(c: &crate::config::Config) {}", &["rooms"]);
    check("src/client/mod.rs", "use crate::service::convert;", &["rooms"]);
    check("src/client/mod.rs", "use crate::cli;", &["rooms"]);
    check("src/cli/serve.rs", "use crate::{config::Config, service::Server};", &[]);
    check("src/main.rs", "use terrace::cli;", &[]);
    check("src/tiers/store.rs", "//! See [`crate::manager`].\n// crate::cli\n", &[]);
    check("src/tiers/store.rs", r#"const SAID: &str = "crate::manager";"#, &[]);
    check("src/lib.rs", "pub mod domain;\npub mod attic;", &["known_rooms"]);

    // Outside libraries stay in their place.
    check("src/tiers/nvme/mod.rs", "use io_uring::IoUring;", &["outsiders"]);
    check("src/tiers/nvme/uring/ring.rs", "use io_uring::IoUring;", &[]);
    check("src/tiers/hbm/host.rs", "use cudarc::driver::sys;", &["outsiders"]);
    check("src/tiers/hbm/cuda/lane.rs", "use cudarc::driver::sys;", &["outsiders"]);
    check("src/tiers/hbm/cuda/sys.rs", "use cudarc::driver::sys;", &[]);
    check("src/tiers/object/dir.rs", "use aws_sdk_s3::Client;", &["outsiders"]);
    check("src/tiers/object/s3.rs", "use aws_sdk_s3::Client;", &[]);
    check("src/service/server.rs", "use prost::Message;", &["outsiders"]);
    check("src/manager/shell/mod.rs", "use tonic::Status;", &["outsiders"]);
    check("src/service/server.rs", "use crate::wire::pb::HelloRequest;", &["protobuf"]);
    check("src/service/convert/hello.rs", "use crate::wire::pb;", &[]);
    check("src/service/mod.rs", "use crate::wire::pb::terrace_server::TerraceServer;", &[]);

    // Pure layers.
    check("src/domain/directory.rs", "use std::collections::{BTreeMap, HashMap};", &["purity"]);
    check("src/domain/directory.rs", "use std::collections::BTreeMap;", &[]);
    check("src/movement/queue.rs", "fn f() { std::fs::remove_file(p); }", &["purity"]);
    check("src/manager/mod.rs", "use std::time::{Duration, Instant};", &["purity"]);
    check("src/manager/mod.rs", "async fn step() {}", &["purity"]);
    check("src/manager/mod.rs", "fn f() { tracing::info!(); }", &["purity"]);
    check("src/manager/shell/mod.rs", "use std::collections::HashMap;", &[]);
    check("src/tiers/store.rs", "use std::io;", &[]);

    // The form of a file.
    check("src/domain/a.rs", &"//\n".repeat(form::FILE_LINES_MAX), &["length"]);
    check("src/domain/a.rs", &"//\n".repeat(form::FILE_LINES_WISH), &[]);
    assert_eq!(found("src/domain/a.rs", "fn f() {}\n"), ["module_doc"]);
    assert_eq!(found("src/domain/a.rs", ""), ["module_doc"]);
    check("src/domain/a.rs", concat!("fn f() { tod", "o!() }"), &["leftovers"]);
    check("src/domain/a.rs", concat!("// FIX", "ME: later"), &["leftovers"]);
    check("tests/a.rs", concat!("#[ig", "nore]"), &["leftovers"]);
    let folder = ["", "home", "someone"].join("/");
    check("docs/a.md", &format!("Look into `{folder}/terrace`."), &["machine_paths"]);
    check("docs/a.md", &format!("https://example.com{folder}/x ~{folder}/y"), &[]);
}

#[test]
fn code_is_blanked_only_where_it_should_be() {
    let keeps = |text: &str, word: &str| SourceFile::new("a.rs", text).code().contains(word);
    for text in [
        r#"let a = "x"; word();"#,
        r##"let a = r#"" quoted"#; word();"##,
        r"let a = '\''; word();",
        r#"let a = '"'; word();"#,
        "fn f<'a>(a: &'a str) { word() }",
        r#"let a = "\\"; word();"#,
        "/* /* inner */ outer */ word();",
        r#"let a = br"\"; word();"#,
    ] {
        assert!(keeps(text, "word"), "{text}");
    }
    for text in [
        r#"let a = "word";"#,
        "// word",
        "/* /* a */ word */",
        r##"let a = r#" " word "#;"##,
        r#"let a = "\" word";"#,
    ] {
        assert!(!keeps(text, "word"), "{text}");
    }
}
