//! The arguments that say what a simulated NVMe drive is written: when, by which rule, how much.

use crate::config::parse;
use crate::domain::admission::{Rule, WriteMode, WriteRules};

#[derive(clap::Args, Clone, Debug, Default)]
pub struct WriteArgs {
    /// When blocks are written to `NVMe`: demote (when memory needs their room) or through (at once)
    /// [default: demote]
    #[arg(long, value_name = "demote|through", value_parser = mode)]
    pub nvme_write: Option<WriteMode>,
    /// What is worth writing: returning (chains like its own come back), read (it was read once) or
    /// all [default: returning]
    #[arg(long, value_name = "RULE", value_parser = rule_name)]
    pub nvme_admission: Option<&'static str>,
    /// Of a hundred chains so many must come back for `returning` to write them [default: 10]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub nvme_admit_percent: Option<u8>,
    /// At most so many bytes a second, as 40MiB; 0: no limit [default: 0]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub nvme_write_per_s: Option<u64>,
    /// At most so many bytes a day [default: 0]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub nvme_write_per_day: Option<u64>,
}

impl WriteArgs {
    #[must_use]
    pub fn rules(&self) -> WriteRules {
        let percent = self.nvme_admit_percent.unwrap_or(Rule::PERCENT);
        let name = self.nvme_admission.unwrap_or(Rule::default().name());
        WriteRules {
            mode: self.nvme_write.unwrap_or_default(),
            rule: Rule::named(name, percent).expect("the parser knows the names"),
            bytes_per_s: self.nvme_write_per_s.unwrap_or(0),
            bytes_per_day: self.nvme_write_per_day.unwrap_or(0),
        }
    }

    /// Whether anything is said of writes.
    #[must_use]
    pub const fn is_given(&self) -> bool {
        self.nvme_write.is_some()
            || self.nvme_admission.is_some()
            || self.nvme_admit_percent.is_some()
            || self.nvme_write_per_s.is_some()
            || self.nvme_write_per_day.is_some()
    }
}

fn mode(name: &str) -> Result<WriteMode, String> {
    WriteMode::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
        format!(
            "`{name}` is no way to write: use {}",
            WriteMode::ALL.map(WriteMode::name).join(" or ")
        )
    })
}

fn rule_name(name: &str) -> Result<&'static str, String> {
    let found = Rule::NAMES.into_iter().find(|known| *known == name);
    found.ok_or_else(|| format!("no rule `{name}`: use one of {}", Rule::NAMES.join(", ")))
}

fn size(text: &str) -> Result<u64, String> {
    parse::size(text).map_err(|problem| format!("{}: {}", problem.problem, problem.remedy))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        writes: WriteArgs,
    }

    fn rules(line: &str) -> Result<WriteRules, String> {
        let words = ["replay"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(cli.writes.rules())
    }

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        assert_eq!(rules("").unwrap(), WriteRules::default());
        let said = rules(
            "--nvme-write through --nvme-admission returning --nvme-admit-percent 30 \
             --nvme-write-per-s 40MiB --nvme-write-per-day 1TiB",
        );
        let rule = Rule::Returning { percent: 30 };
        let (bytes_per_s, bytes_per_day) = (40 << 20, 1 << 40);
        let through = WriteRules { mode: WriteMode::Through, rule, bytes_per_s, bytes_per_day };
        assert_eq!(said.unwrap(), through);
    }

    #[test]
    fn errors_say_what_to_give() {
        let check = |line: &str, expected: &str| {
            let said = rules(line).expect_err(line);
            assert!(said.contains(expected), "{line}\n  said   {said}\n  lacks  {expected}");
        };
        check("--nvme-write back", "`back` is no way to write: use demote or through");
        check("--nvme-admission some", "no rule `some`: use one of returning, read, all");
        check("--nvme-admit-percent 101", "101 is not in 0..=100");
        check("--nvme-write-per-s fast", "invalid value 'fast'");
    }
}
