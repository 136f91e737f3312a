//! What is wrong with the configuration: which key, which value from where, and what to do.

use std::fmt;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File {
        path: String,
        line: usize,
    },
    /// The variable's name.
    Env(String),
    /// The flag as it is written, with its dashes.
    Flag(String),
    /// Nobody gave it: it is what the machine made of the default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Env(name) => write!(f, "the environment's {name}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Default => write!(f, "the default"),
        }
    }
}

/// A setting that can't stand. The daemon does not start with one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}{}\n  remedy: {remedy}", given(value.as_deref(), origin.as_ref()))]
pub struct ConfigError {
    /// The key, or what stands where a key should.
    pub key: Box<str>,
    /// What was written, if something was.
    pub value: Option<String>,
    pub origin: Option<Origin>,
    pub problem: Box<str>,
    pub remedy: Box<str>,
}

fn given(value: Option<&str>, origin: Option<&Origin>) -> String {
    match (value, origin) {
        (Some(value), Some(origin)) => format!("\n  given: `{value}` by {origin}"),
        (None, Some(origin)) if *origin != Origin::Default => format!("\n  given by {origin}"),
        _ => String::new(),
    }
}

/// What is wrong with a value, before it is known whose value it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub problem: String,
    pub remedy: String,
}

impl Problem {
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}
