//! The arguments of a simulation in which copies take time: links, the model's rate, prefetch.
//!
//! Knows forms and bounds. What the defaults are and where they come from stands in
//! [`crate::sim::replay::links`].

use std::num::NonZeroU32;
use std::str::FromStr;

use crate::movement::Link;
use crate::sim::replay::{LinkSpeed, Timing};

use super::ReplayError;

#[derive(clap::Args, Clone, Debug, Default)]
pub struct TimingArgs {
    /// How fast a link is: bytes a second, and what each transfer takes beyond them, as in
    /// `nvme_read=13GB/s:80us`. Without the time that stays as it is. Can be given once for each of
    /// `device_up` (DRAM to HBM), `device_down`, `device_local`, `nvme_read`, `nvme_write`,
    /// `object_get` and `object_put` [default: one H100 with one drive]
    #[arg(long, value_name = "LINK=RATE[:TIME]")]
    pub link: Vec<LinkArg>,
    /// Tokens a second that the model computes of what is not loaded [default: 10000]
    #[arg(long, value_name = "TOKENS", value_parser = prefill_rate)]
    pub prefill_tokens_per_s: Option<NonZeroU32>,
    /// Whether blocks are lifted ahead of need [default: on]
    #[arg(long, value_name = "on|off", value_parser = switch)]
    pub prefetch: Option<bool>,
}

impl TimingArgs {
    /// How long things take with blocks of so many bytes.
    ///
    /// # Errors
    /// A link is named twice.
    pub fn timing(&self, block_bytes: u64) -> Result<Timing, ReplayError> {
        let mut timing = Timing::of_blocks(block_bytes);
        for (at, arg) in self.link.iter().enumerate() {
            if self.link[..at].iter().any(|before| before.link == arg.link) {
                return Err(ReplayError::Usage(format!(
                    "--link {} is given twice: leave one of them out",
                    arg.link.name()
                )));
            }
            let latency_us = arg.latency_us.unwrap_or(timing.links.of(arg.link).latency_us);
            timing.links.set(arg.link, LinkSpeed { bytes_per_s: arg.bytes_per_s, latency_us });
        }
        timing.prefill_tokens_per_s =
            self.prefill_tokens_per_s.unwrap_or(timing.prefill_tokens_per_s);
        timing.prefetch = self.prefetch.unwrap_or(timing.prefetch);
        Ok(timing)
    }

    /// For replays in which copies take no simulated time.
    ///
    /// # Errors
    /// One of the flags is given; `because` says what is in its way.
    pub fn refuse(&self, because: &str) -> Result<(), ReplayError> {
        let flags = [
            ("--link", !self.link.is_empty()),
            ("--prefill-tokens-per-s", self.prefill_tokens_per_s.is_some()),
            ("--prefetch", self.prefetch.is_some()),
        ];
        match flags.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((flag, _)) => Err(ReplayError::Usage(format!("{flag} {because}"))),
        }
    }
}

/// One link's speed, as far as it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkArg {
    link: Link,
    bytes_per_s: u64,
    latency_us: Option<u64>,
}

/// Below a kilobyte a second a replay would outlast its trace by years.
const RATE_MIN: f64 = 1e3;
const RATE_MAX: f64 = 1e15;
const LATENCY_US_MAX: f64 = 60e6;

const RATES: [(&str, f64); 4] = [("kB/s", 1e3), ("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12)];
const TIMES: [(&str, f64); 3] = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];

impl FromStr for LinkArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((link, speed)) = text.split_once('=') else {
            return Err(format!("`{text}` is no link's speed: give one as device_up=52GB/s:20us"));
        };
        let Some(link) = Link::ALL.iter().find(|known| known.name() == link) else {
            let known = Link::ALL.map(Link::name).join(", ");
            return Err(format!("link `{link}` is not known: use one of {known}"));
        };
        let (rate, latency) =
            speed.split_once(':').map_or((speed, None), |(rate, time)| (rate, Some(time)));
        Ok(Self {
            link: *link,
            bytes_per_s: quantity(rate, &RATES, RATE_MIN..=RATE_MAX, "1kB/s to 1000TB/s")?,
            latency_us: latency
                .map(|time| quantity(time, &TIMES, 0.0..=LATENCY_US_MAX, "0us to 60s"))
                .transpose()?,
        })
    }
}

/// A number with one of the units, in the smallest of them that counts as one.
fn quantity(
    text: &str,
    units: &[(&str, f64)],
    bounds: std::ops::RangeInclusive<f64>,
    shown: &str,
) -> Result<u64, String> {
    let number_ends = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_ends);
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let (Ok(number), Some(factor)) = (number.parse::<f64>(), factor) else {
        let known: Vec<_> = units.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "`{text}` can't be read: give a number and one of {}",
            known.join(", ")
        ));
    };
    let value = (number * factor).round();
    if !bounds.contains(&value) {
        return Err(format!("{text} is out of range: give {shown}"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in bounds")]
    let value = value as u64;
    Ok(value)
}

fn prefill_rate(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no prefill rate: give 1 to {} tokens a second", u32::MAX))
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("`{text}` is neither on nor off")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::sim::replay::LinkSpeeds;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        timing: TimingArgs,
    }

    fn timing(line: &str) -> Result<Timing, String> {
        let words = ["replay"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.timing.timing(4096).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_said_stays_as_it_is() {
        assert_eq!(timing("").unwrap(), Timing::of_blocks(4096));
        let said = timing(
            "--link nvme_read=13.5GB/s:0.08ms --link nvme_write=900MB/s --prefetch off \
             --prefill-tokens-per-s 2500",
        )
        .unwrap();
        let speed = |bytes_per_s, latency_us| LinkSpeed { bytes_per_s, latency_us };
        assert_eq!(said.links.of(Link::NvmeRead), speed(13_500_000_000, 80));
        assert_eq!(said.links.of(Link::NvmeWrite), speed(900_000_000, 50));
        assert_eq!(said.links.of(Link::DeviceUp), LinkSpeeds::H100_NODE.of(Link::DeviceUp));
        assert_eq!((said.prefill_tokens_per_s.get(), said.prefetch), (2500, false));
    }

    #[test]
    fn errors_say_what_to_give() {
        let check = |line: &str, expected: &str| {
            let said = timing(line).expect_err(line);
            assert!(said.contains(expected), "{line}\n  said   {said}\n  lacks  {expected}");
        };
        check("--link fast", "`fast` is no link's speed: give one as device_up=52GB/s:20us");
        check("--link dram=1GB/s", "link `dram` is not known: use one of device_up, device_down, ");
        check("--link device_up=52", "`52` can't be read: give a number and one of kB/s, MB/s, ");
        check("--link device_up=52GiB/s", "`52GiB/s` can't be read");
        check("--link device_up=GB/s", "`GB/s` can't be read");
        check("--link device_up=1.2.3GB/s", "`1.2.3GB/s` can't be read");
        check("--link device_up=NaNGB/s", "can't be read");
        check("--link device_up=0GB/s", "0GB/s is out of range: give 1kB/s to 1000TB/s");
        check("--link device_up=1001TB/s", "out of range: give 1kB/s to 1000TB/s");
        check("--link device_up=1GB/s:", "`` can't be read: give a number and one of us, ms, s");
        check(
            "--link device_up=1GB/s:20",
            "`20` can't be read: give a number and one of us, ms, s",
        );
        check("--link device_up=1GB/s:2m", "`2m` can't be read");
        check("--link device_up=1GB/s:61s", "61s is out of range: give 0us to 60s");
        check("--link device_up=1GB/s --link device_up=2GB/s", "--link device_up is given twice");
        check("--prefill-tokens-per-s 0", "`0` is no prefill rate: give 1 to 4294967295 tokens");
        check("--prefill-tokens-per-s 4294967296", "`4294967296` is no prefill rate");
        check("--prefill-tokens-per-s=-1", "`-1` is no prefill rate");
        check("--prefetch maybe", "`maybe` is neither on nor off");
    }

    #[test]
    fn where_nothing_takes_time_every_flag_is_refused() {
        let refused = |line: &str| {
            let words = ["replay"].into_iter().chain(line.split_whitespace());
            let args = Cli::try_parse_from(words).unwrap().timing;
            args.refuse("needs time").err().map(|error| error.to_string())
        };
        assert_eq!(refused(""), None);
        for flag in ["--link device_up=1GB/s", "--prefill-tokens-per-s 1", "--prefetch on"] {
            let name = flag.split_whitespace().next().unwrap();
            assert_eq!(refused(flag), Some(format!("{name} needs time")));
        }
    }
}
