//! Reads one key at a time as what it is, and puts the key's name on what is wrong with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{ConfigError, Origin, Problem};
use super::keys::{KEYS, Kind, index_of};
use super::machine::Machine;
use super::parse;
use super::sources::{Sources, Values};
use crate::domain::units::CHUNK_BYTES;

/// The values that were given, and what defaults and limits depend on.
pub struct Reader<'a> {
    values: &'a Values,
    pub sources: &'a Sources,
    pub machine: &'a dyn Machine,
}

impl<'a> Reader<'a> {
    pub fn new(values: &'a Values, sources: &'a Sources, machine: &'a dyn Machine) -> Self {
        Self { values, sources, machine }
    }

    /// What was written for the key, if anything was.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.values.get(name).map(|given| given.text.as_str())
    }

    /// The error of `name`'s value.
    pub fn wrong(&self, name: &str, problem: Problem) -> ConfigError {
        let given = self.values.get(name);
        ConfigError {
            key: name.into(),
            value: given.map(|given| given.text.clone()),
            origin: Some(given.map_or(Origin::Default, |given| given.origin.clone())),
            problem: problem.problem.into(),
            remedy: problem.remedy.into(),
        }
    }

    /// Text in a form of its own.
    pub fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Result<Option<T>, ConfigError> {
        let text = self.text(name);
        text.map(parse).transpose().map_err(|problem| self.wrong(name, problem))
    }

    pub fn size(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        self.parsed(name, parse::size)
    }

    /// A size in whole chunks; zero is one.
    pub fn chunks(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        self.parsed(name, |text| whole_chunks(parse::size(text)?))
    }

    pub fn duration(
        &self,
        name: &str,
        min: Duration,
        max: Duration,
    ) -> Result<Option<Duration>, ConfigError> {
        self.parsed(name, |text| parse::duration(text, min, max))
    }

    /// A number within the bounds of the key's own row in the table.
    pub fn count(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        let index = index_of(name).expect("the code asks for keys of the table only");
        let Kind::Count { min, max } = KEYS[index].kind else {
            unreachable!("{name} is no count in the table of keys");
        };
        let number = self.parsed(name, |text| parse::count(text, min, max))?;
        Ok(number.map(|number| usize::try_from(number).expect("the table's bounds are small")))
    }

    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        self.parsed(name, parse::boolean)
    }

    /// One of the words of the key's own row in the table.
    pub fn choice(&self, name: &str) -> Result<Option<&'static str>, ConfigError> {
        let index = index_of(name).expect("the code asks for keys of the table only");
        let Kind::Choice(words) = KEYS[index].kind else {
            unreachable!("{name} is no choice in the table of keys");
        };
        self.parsed(name, |text| parse::choice(text, words))
    }

    pub fn path(&self, name: &str) -> Result<Option<PathBuf>, ConfigError> {
        self.parsed(name, |text| self.absolute(text))
    }

    /// Paths with commas between them, or `none`.
    pub fn paths(&self, name: &str) -> Result<Vec<PathBuf>, ConfigError> {
        let parse = |text: &str| match text {
            "none" => Ok(Vec::new()),
            text => text.split(',').map(|path| self.absolute(path.trim())).collect(),
        };
        Ok(self.parsed(name, parse)?.unwrap_or_default())
    }

    fn absolute(&self, text: &str) -> Result<PathBuf, Problem> {
        let home = self.sources.folder("HOME");
        let path = match (text.strip_prefix("~/"), home) {
            (Some(below), Some(home)) => home.join(below),
            _ => Path::new(text).to_path_buf(),
        };
        if path.is_absolute() {
            return Ok(path);
        }
        Err(Problem::new("not an absolute path", "start the path with / or ~/"))
    }
}

fn whole_chunks(bytes: u64) -> Result<u64, Problem> {
    if bytes.is_multiple_of(CHUNK_BYTES) {
        return Ok(bytes);
    }
    let chunk = parse::size_text(CHUNK_BYTES);
    if bytes < CHUNK_BYTES {
        let problem = format!("smaller than one chunk of {}", parse::shown(CHUNK_BYTES));
        return Err(Problem::new(problem, format!("give at least {chunk}, or 0 for none")));
    }
    let below = bytes / CHUNK_BYTES * CHUNK_BYTES;
    Err(Problem::new(
        format!("not a whole number of chunks of {}", parse::shown(CHUNK_BYTES)),
        format!("give a multiple of {chunk}, such as {}", parse::size_text(below)),
    ))
}
