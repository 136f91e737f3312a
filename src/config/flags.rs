//! The settings as flags: one flag a key, made from the same table, and `--config` for the file.

use std::path::{self, PathBuf};
use std::sync::LazyLock;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::error::ConfigError;
use super::keys::{KEYS, Key, Kind};
use super::sources::Sources;

/// The flags that were given, unread.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    pub settings: Vec<(&'static str, String)>,
}

impl Flags {
    /// The flags with the file and the environment that go with them.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn sources(&self) -> Result<Sources, ConfigError> {
        Sources::gather(self.file.as_deref(), self.settings.clone())
    }
}

/// On the command line a path may start where the user stands, as it may at `~/`.
#[must_use]
pub fn from_here(text: &str) -> String {
    match path::absolute(text) {
        Ok(path) if !text.starts_with("~/") => path.to_string_lossy().into_owned(),
        _ => text.to_owned(),
    }
}

const CONFIG: &str = "config";

/// The flags' names in the order of [`KEYS`]; clap wants them for the whole run.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| KEYS.iter().map(Key::flag).collect());

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("PATH")
            .value_parser(clap::value_parser!(PathBuf))
            .help(
                "The TOML file [env: TERRACE_CONFIG] [default: terrace/config.toml in \
                   $XDG_CONFIG_HOME, if it is there]",
            );
        KEYS.iter().zip(NAMES.iter()).fold(command.arg(file), |command, (key, flag)| {
            let help = format!("{} [default: {}]", key.about, key.default.replace('`', ""));
            let arg = Arg::new(key.name)
                .long(flag.as_str())
                .value_name(key.kind.placeholder())
                .allow_negative_numbers(true)
                .help(help)
                .help_heading("Settings (also by environment and file, see docs/config.md)");
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |key: &Key| {
            let text = matches.get_one::<String>(key.name)?;
            Some(if key.kind == Kind::Path { from_here(text) } else { text.clone() })
        };
        let settings = KEYS.iter().filter_map(|key| Some((key.name, value(key)?))).collect();
        Ok(Self { file: matches.get_one::<PathBuf>(CONFIG).cloned(), settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_starts_where_the_user_stands_and_other_text_is_left() {
        let line = ["x", "--socket=t.sock", "--state-dir=~/state", "--object-url", "s3://a/b"];
        let matches = Flags::augment_args(Command::new("x")).get_matches_from(line);
        let here = std::env::current_dir().unwrap();
        let socket = here.join("t.sock").to_string_lossy().into_owned();
        let text = |text: &str| text.to_owned();
        assert_eq!(
            Flags::from_arg_matches(&matches).unwrap().settings,
            [("socket", socket), ("state_dir", text("~/state")), ("object.url", text("s3://a/b"))]
        );
        assert_eq!(from_here(""), "", "nothing is no path");
    }
}
