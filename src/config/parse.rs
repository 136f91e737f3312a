//! From text to sizes, times and numbers. Knows forms only, no keys and no machine.

use std::time::Duration;

use super::error::Problem;
use crate::domain::units::Bytes;

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// Bytes with a binary unit.
///
/// # Errors
/// What is wrong with the text, and how the same is written right.
pub fn size(text: &str) -> Result<u64, Problem> {
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(0);
    }
    if trimmed.ends_with('%') {
        return Err(Problem::new("a share is not a size", "give bytes with a unit, such as 4GiB"));
    }
    let (digits, unit) = split_number(trimmed);
    let no_size =
        || Problem::new("not a size", "give a whole number and a unit: 512MiB, 4GiB, 1TiB");
    let number: u64 = digits.parse().map_err(|_| no_size())?;
    if unit.starts_with(['.', ',']) {
        return Err(Problem::new(
            "not a whole number",
            "give a whole number in a smaller unit: 1536MiB for one and a half GiB",
        ));
    }
    let Some((_, shift)) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return Err(match number {
            0 => no_size(),
            _ => Problem::new(unit_problem(unit), unit_remedy(number, unit)),
        });
    };
    number.checked_mul(1 << shift).ok_or_else(|| {
        Problem::new("more bytes than a 64-bit number holds", "give a size such as 4GiB")
    })
}

fn unit_problem(unit: &str) -> String {
    if unit.is_empty() { "the unit is missing".into() } else { format!("no unit `{unit}`") }
}

fn unit_remedy(number: u64, unit: &str) -> String {
    let meant = match unit.chars().next().map(|c| c.to_ascii_uppercase()) {
        Some('K') => "KiB",
        Some('G') => "GiB",
        Some('T') => "TiB",
        // Nobody means so few bytes.
        None if number < 1024 => {
            return format!("write {number}KiB, {number}MiB or {number}GiB, as it was meant");
        }
        None => "B",
        _ => "MiB",
    };
    format!("units are B, KiB, MiB, GiB and TiB (powers of 1024): write {number}{meant}")
}

/// `bytes` as [`size`] reads them back, in the largest unit that gives a whole number.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let whole = |(_, shift): &&(&str, u32)| bytes != 0 && bytes.is_multiple_of(1 << shift);
    UNITS
        .iter()
        .find(whole)
        .map_or_else(|| "0".to_owned(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// A time with its unit, between the bounds, both included.
///
/// # Errors
/// What is wrong with the text, and how the same is written right.
pub fn duration(text: &str, min: Duration, max: Duration) -> Result<Duration, Problem> {
    let (digits, unit) = split_number(text.trim());
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(Problem::new("not a time", "give a whole number and ms, s, m or h: 30s")),
    };
    let Ok(number) = digits.parse::<u64>() else {
        return Err(Problem::new("not a time", "give a whole number and ms, s, m or h: 30s"));
    };
    let given = Duration::from_millis(number.saturating_mul(millis));
    if (min..=max).contains(&given) {
        return Ok(given);
    }
    let problem = if given < min { "too short" } else { "too long" };
    let (min, max) = (time_text(min), time_text(max));
    Err(Problem::new(problem, format!("give a time between {min} and {max}")))
}

/// `time` as [`duration`] reads it back, in the largest unit that gives a whole number.
fn time_text(time: Duration) -> String {
    let millis = time.as_millis();
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let whole = units.into_iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

/// A whole number between the bounds, both included.
///
/// # Errors
/// What is wrong with the text, and what to write.
pub fn count(text: &str, min: u64, max: u64) -> Result<u64, Problem> {
    let remedy = || format!("give a whole number from {min} to {max}");
    let number: u64 =
        text.trim().parse().map_err(|_| Problem::new("not a whole number", remedy()))?;
    let problem = if number < min { "too small" } else { "too large" };
    (min..=max).contains(&number).then_some(number).ok_or_else(|| Problem::new(problem, remedy()))
}

/// `true` or `false`.
///
/// # Errors
/// It is neither.
pub fn boolean(text: &str) -> Result<bool, Problem> {
    text.trim().parse().map_err(|_| Problem::new("neither true nor false", "write true or false"))
}

/// One of the words.
///
/// # Errors
/// It is none of them; the remedy names the nearest.
pub fn choice(text: &str, words: &[&'static str]) -> Result<&'static str, Problem> {
    words.iter().find(|word| **word == text.trim()).copied().ok_or_else(|| {
        Problem::new(format!("no such choice `{text}`"), format!("choose {}", words.join(", ")))
    })
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (digits, rest.trim_start())
}

/// What people read: `4 GiB`.
#[must_use]
pub fn shown(bytes: u64) -> String {
    Bytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: u64| assert_eq!(size(text), Ok(bytes), "{text}");
        check("0", 0);
        check("1B", 1);
        check("0GiB", 0);
        check("64MiB", 64 << 20);
        check(" 4 GiB ", 4 << 30);
        check("1tib", 1 << 40);
        for (text, remedy) in [
            ("4GB", "write 4GiB"),
            ("4096", "write 4096B"),
            ("5", "write 5KiB, 5MiB or 5GiB"),
            ("0x10", "whole number and a unit"),
            ("10%", "such as 4GiB"),
            ("1.5GiB", "1536MiB"),
            ("", "whole number and a unit"),
            ("-1GiB", "whole number and a unit"),
            ("99999999999TiB", "such as 4GiB"),
        ] {
            let said = size(text).unwrap_err();
            assert!(said.remedy.contains(remedy), "{text}: {said:?}");
        }
    }

    #[test]
    fn times() {
        let (min, max) = (Duration::from_millis(100), Duration::from_hours(1));
        let check = |text: &str, ms| {
            assert_eq!(duration(text, min, max), Ok(Duration::from_millis(ms)), "{text}");
        };
        check("100ms", 100);
        check("30s", 30_000);
        check("5m", 300_000);
        check("1 h", 3_600_000);
        let said = duration("2h", Duration::ZERO, max).unwrap_err();
        assert_eq!(said.remedy, "give a time between 0ms and 1h");
        let said = duration("1ms", min, Duration::from_millis(90_500)).unwrap_err();
        assert_eq!(said.remedy, "give a time between 100ms and 90500ms");
        for text in ["", "s", "30", "99ms", "2h", "-1s", "18446744073709551615h", "1d"] {
            assert!(duration(text, min, max).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn prop_any_text_is_read_or_refused_with_a_remedy(text in ".*") {
            for said in [
                size(&text).err(),
                duration(&text, Duration::ZERO, Duration::MAX).err(),
                count(&text, 1, 9).err(),
                boolean(&text).err(),
            ].into_iter().flatten() {
                prop_assert!(!said.problem.is_empty() && !said.remedy.is_empty());
            }
        }

        #[test]
        fn prop_sizes_are_read_back(bytes in any::<u64>()) {
            prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
    }
}
