//! Where settings come from: one file, the environment, the flags. Later ones win.
//!
//! Gives every value as text with its origin, and refuses what no key is called. Knows nothing of
//! what the values mean.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};
use super::keys::{KEYS, Key, index_of};
use super::nearest::nearest;

/// The variable that names the file.
pub const FILE_ENV: &str = "TERRACE_CONFIG";
/// Names the binary to `scripts/test-python` and `scripts/test-vllm`: no setting of the daemon's.
const BINARY_ENV: &str = "TERRACE_BIN";

/// No file of settings is longer; a device has no end.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the operator gave, unread.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's path, as it is shown, and its text.
    pub file: Option<(String, String)>,
    /// The whole environment; what has nothing to do with us is passed over.
    pub env: Vec<(String, String)>,
    /// Keys by name with their values.
    pub flags: Vec<(&'static str, String)>,
}

impl Sources {
    /// Reads the file that is named by `file`, by `TERRACE_CONFIG`, or that stands at the usual
    /// place; and this process's environment.
    ///
    /// # Errors
    /// A file that is named can't be read, or one at the usual place is there and can't.
    pub fn gather(
        file: Option<&Path>,
        flags: Vec<(&'static str, String)>,
    ) -> Result<Self, ConfigError> {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let env: Vec<(String, String)> =
            std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
        let sources = Self { file: None, env, flags };
        let named =
            file.map(Path::to_path_buf).or_else(|| sources.var(FILE_ENV).map(PathBuf::from));
        let path = match (named, sources.usual_file()) {
            (Some(named), _) => named,
            (None, Some(usual)) if is_something(&usual) => usual,
            _ => return Ok(sources),
        };
        let text = read(&path).map_err(|error| ConfigError {
            key: path.display().to_string().into(),
            value: None,
            origin: None,
            problem: format!("the config file can't be read: {error}").into(),
            remedy: "name a readable TOML file with --config, or none to run with the defaults"
                .into(),
        })?;
        Ok(Self { file: Some((path.display().to_string(), text)), ..sources })
    }

    /// A variable of the environment that is set and not empty.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&str> {
        let found = self.env.iter().find(|(given, _)| given == name)?;
        Some(found.1.as_str()).filter(|value| !value.is_empty())
    }

    /// An absolute folder that a variable of the environment names; the XDG rules ignore others.
    #[must_use]
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        self.var(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    fn usual_file(&self) -> Option<PathBuf> {
        let home = || self.folder("HOME").map(|home| home.join(".config"));
        let folder = self.folder("XDG_CONFIG_HOME").or_else(home)?;
        Some(folder.join("terrace").join("config.toml"))
    }

    /// Every key's winning value, in the order of [`KEYS`].
    ///
    /// # Errors
    /// A name that no key has, or a file that is not TOML.
    pub fn values(&self) -> Result<Values, ConfigError> {
        let mut values = Values { by_key: KEYS.iter().map(|_| None).collect() };
        if let Some((path, text)) = &self.file {
            read_file(path, text, &mut values)?;
        }
        for (name, text) in &self.env {
            read_variable(name, text, &mut values)?;
        }
        for (name, text) in &self.flags {
            let index = index_of(name).expect("flags are made from the keys");
            let origin = Origin::Flag(format!("--{}", KEYS[index].flag()));
            values.by_key[index] = Some(Given { text: text.clone(), origin });
        }
        Ok(values)
    }
}

/// The file's text. A pipe is read to its end.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(text)
}

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub text: String,
    pub origin: Origin,
}

/// The values that were given, one for each key at most.
#[derive(Clone, Debug)]
pub struct Values {
    by_key: Vec<Option<Given>>,
}

impl Values {
    /// # Panics
    /// There is no key of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Given> {
        let index = index_of(name).expect("the code asks for keys of the table only");
        self.by_key[index].as_ref()
    }
}

fn read_variable(name: &str, text: &str, values: &mut Values) -> Result<(), ConfigError> {
    if !name.starts_with("TERRACE_") || [FILE_ENV, BINARY_ENV].contains(&name) || text.is_empty() {
        return Ok(());
    }
    let origin = Origin::Env(name.to_owned());
    let Some(index) = KEYS.iter().position(|key| key.env() == name) else {
        let names: Vec<String> = KEYS.iter().map(Key::env).collect();
        let near = nearest(name, names.iter().map(String::as_str));
        let error = unknown(name, Some(text.to_owned()), origin, near);
        return Err(if is_of_a_service(name) { of_a_service(error) } else { error });
    };
    values.by_key[index] = Some(Given { text: text.to_owned(), origin });
    Ok(())
}

fn read_file(path: &str, text: &str, values: &mut Values) -> Result<(), ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError {
        key: path.into(),
        value: None,
        origin: error.span().map(|span| at(path, text, span.start)),
        problem: format!("not TOML: {}", error.message()).into(),
        remedy: "write tables and keys as docs/config.md shows them".into(),
    })?;
    read_table(&Page { path, text }, "", table.get_ref(), values)
}

struct Page<'a> {
    path: &'a str,
    text: &'a str,
}

fn read_table(
    page: &Page<'_>,
    prefix: &str,
    table: &DeTable<'_>,
    values: &mut Values,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        let origin = at(page.path, page.text, key.span().start);
        if let DeValue::Table(inner) = value.get_ref() {
            let below = format!("{name}.");
            if KEYS.iter().any(|key| key.name.starts_with(&below)) {
                read_table(page, &below, inner, values)?;
                continue;
            }
        }
        let text = plain(value.get_ref());
        let Some(index) = index_of(&name) else {
            let near = nearest(&name, candidates(&name));
            return Err(unknown(&name, text, origin, near));
        };
        let Some(text) = text else {
            return Err(ConfigError {
                key: name.into(),
                value: None,
                origin: Some(origin),
                problem: "takes one value".into(),
                remedy: format!(
                    "write {} = \"{}\"",
                    KEYS[index].name,
                    KEYS[index].kind.placeholder()
                )
                .into(),
            });
        };
        values.by_key[index] = Some(Given { text, origin });
    }
    Ok(())
}

/// The names that a misspelled one is held against: keys, and tables for what looks like one.
fn candidates(name: &str) -> impl Iterator<Item = &'static str> + use<> {
    let is_table = !name.contains('.');
    KEYS.iter().flat_map(move |key| {
        let table = key.name.split_once('.').map(|(table, _)| table).filter(|_| is_table);
        [Some(key.name), table].into_iter().flatten()
    })
}

/// Whether it is there, as far as anybody can tell: what can't be reached may be.
fn is_something(path: &Path) -> bool {
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    !path.symlink_metadata().is_err_and(|error| absent.contains(&error.kind()))
}

/// A string, number or truth value as it was written.
fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        // As it was written: other radixes than ten are not numbers here.
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn at(path: &str, text: &str, byte: usize) -> Origin {
    let before = text.get(..byte).unwrap_or_default();
    Origin::File { path: path.to_owned(), line: before.matches('\n').count() + 1 }
}

/// Kubernetes gives these to every pod beside a Service that is called `terrace`, unless the pod says that it
/// wants none.
fn is_of_a_service(variable: &str) -> bool {
    variable == "TERRACE_PORT"
        || ["TERRACE_PORT_", "TERRACE_SERVICE_"].iter().any(|start| variable.starts_with(start))
}

fn of_a_service(error: ConfigError) -> ConfigError {
    let remedy = "Kubernetes sets it for a Service that is called `terrace`: set enableServiceLinks: false in \
                  the pod's spec, or call the Service otherwise";
    ConfigError { remedy: remedy.into(), ..error }
}

fn unknown(name: &str, value: Option<String>, origin: Origin, near: Option<&str>) -> ConfigError {
    let remedy = match near {
        Some(near) if near == name => {
            format!("it names several: write a line [{near}], and each of them below it")
        }
        Some(near) => format!("did you mean `{near}`? docs/config.md lists every key"),
        None => "take it out; docs/config.md lists every key".into(),
    };
    ConfigError {
        key: name.into(),
        value,
        origin: Some(origin),
        problem: "no setting has this name".into(),
        remedy: remedy.into(),
    }
}
