//! The settings of packed objects.

use std::time::Duration;

use super::error::{ConfigError, Problem};
use super::reader::Reader;

const FRESHNESS_DEFAULT: Duration = Duration::from_secs(1);
const FRESHNESS_MAX: Duration = Duration::from_mins(1);
const LINGER_DEFAULT: Duration = Duration::from_millis(20);
const LINGER_MAX: Duration = Duration::from_secs(1);
const BLOCKS_KNOWN_DEFAULT: usize = 1_000_000;

/// A frame as long as a pack fills it.
const BELOW_MAX_BYTES: u64 = 8 << 20;

/// How small blocks are packed into objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packs {
    /// Frames shorter than this are.
    pub below_bytes: u32,
    pub linger: Duration,
    pub freshness: Duration,
    pub blocks_known_max: usize,
}

/// Nothing: they are not.
pub(super) fn packs(reader: &Reader<'_>) -> Result<Option<Packs>, ConfigError> {
    let given = reader.parsed("object.pack_below", |text| {
        let bytes = super::parse::size(text)?;
        let short = u32::try_from(bytes).ok().filter(|_| bytes <= BELOW_MAX_BYTES);
        short.ok_or_else(|| Problem::new("longer than a pack", "give 8MiB or less"))
    })?;
    let linger = reader.duration("object.pack_linger", Duration::ZERO, LINGER_MAX)?;
    let freshness = reader.duration("object.pack_freshness", Duration::ZERO, FRESHNESS_MAX)?;
    let known = reader.count("object.pack_blocks_known")?;
    let below_bytes = given.unwrap_or(0);
    Ok((below_bytes > 0).then_some(Packs {
        below_bytes,
        linger: linger.unwrap_or(LINGER_DEFAULT),
        freshness: freshness.unwrap_or(FRESHNESS_DEFAULT),
        blocks_known_max: known.unwrap_or(BLOCKS_KNOWN_DEFAULT),
    }))
}
