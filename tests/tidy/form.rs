//! How a file looks: its length, its first line, and what must not be left in it.

use crate::Finding;
use crate::source::SourceFile;

/// A file longer than this is asked whether it still has one idea; longer than the maximum, it is
/// split.
pub const FILE_LINES_WISH: usize = 400;
pub const FILE_LINES_MAX: usize = 450;

/// What is left when something is unfinished. Spelled in halves, since this file is read too.
const LEFTOVERS: &[(&str, &str)] = &[
    (concat!("tod", "o!("), "finish it, or return an error that says what is missing"),
    (concat!("unimplemen", "ted!("), "finish it, or return an error that says what is missing"),
    (concat!("FIX", "ME"), "mend it, or open an issue and take the mark out"),
    (concat!("TO", "DO"), "do it, or open an issue and take the mark out"),
    (concat!("XX", "X:"), "mend it, or open an issue and take the mark out"),
    (concat!("#[ig", "nore"), "a test that never runs proves nothing: mend it or delete it"),
];

/// Folders that exist on one machine only.
const MACHINE_FOLDERS: &[&str] = &["work", "farm", "root", "home", "Users"];

pub fn length(file: &SourceFile) -> Vec<Finding> {
    let lines = file.text.lines().count();
    if !file.is_rust() || lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    vec![Finding {
        line: lines,
        what: format!("{lines} lines, more than {FILE_LINES_MAX}"),
        remedy: "split it where its summary needs \"and\"".into(),
    }]
}

pub fn module_doc(file: &SourceFile) -> Vec<Finding> {
    let first = file.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let doc = first.strip_prefix("//!").map(str::trim).unwrap_or_default();
    if !file.is_rust() || !doc.is_empty() {
        return Vec::new();
    }
    vec![Finding {
        line: 1,
        what: "no module doc on the first line".into(),
        remedy: "start with `//!`: what the module is for, then what it must never do".into(),
    }]
}

pub fn leftovers(file: &SourceFile) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for (mark, remedy) in LEFTOVERS.iter().filter(|(mark, _)| line.contains(mark)) {
            found.push(Finding {
                line: index + 1,
                what: format!("`{mark}` left in the tree"),
                remedy: (*remedy).into(),
            });
        }
    }
    found
}

pub fn machine_paths(file: &SourceFile) -> Vec<Finding> {
    let mut found = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for folder in MACHINE_FOLDERS.iter().filter(|folder| names_folder(line, folder)) {
            found.push(Finding {
                line: index + 1,
                what: format!("a path under /{folder}, which exists on one machine only"),
                remedy: "use a path from the repository's root, the XDG folders or a temporary \
                         folder"
                    .into(),
            });
        }
    }
    found
}

/// Whether an absolute path under `/folder/` stands in the line: not as the tail of another path or
/// of a URL.
fn names_folder(line: &str, folder: &str) -> bool {
    let needle = format!("/{folder}/");
    line.match_indices(&needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_./-~}".contains(c))
    })
}
