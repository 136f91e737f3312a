//! The settings of packed objects.

use std::time::Duration;

use super::error::{ConfigError, Problem};
use super::reader::Reader;
use crate::domain::units::PAGE_BYTES;

const FRESHNESS_DEFAULT: Duration = Duration::from_secs(1);
const FRESHNESS_MAX: Duration = Duration::from_mins(1);
const LINGER_DEFAULT: Duration = Duration::from_millis(20);
const LINGER_MAX: Duration = Duration::from_secs(1);
const BLOCKS_KNOWN_DEFAULT: usize = 1_000_000;

/// A frame as long as a pack fills it.
const BELOW_MAX_BYTES: u64 = 8 << 20;

/// A frame is a page of header and a page of payload at least.
const FRAME_MIN_BYTES: u64 = 2 * PAGE_BYTES as u64;

/// What says nothing unless blocks are packed.
const OTHERS: [&str; 3] =
    ["object.pack_linger", "object.pack_freshness", "object.pack_blocks_known"];

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
        if (1..=FRAME_MIN_BYTES).contains(&bytes) {
            let remedy = "give more than 8KiB, above the frames of your blocks, or 0 to pack none";
            return Err(Problem::new("no frame is shorter than that", remedy));
        }
        let short = u32::try_from(bytes).ok().filter(|_| bytes <= BELOW_MAX_BYTES);
        short.ok_or_else(|| Problem::new("longer than a pack", "give 8MiB or less"))
    })?;
    let linger = reader.duration("object.pack_linger", Duration::ZERO, LINGER_MAX)?;
    let freshness = reader.duration("object.pack_freshness", Duration::ZERO, FRESHNESS_MAX)?;
    let known = reader.count("object.pack_blocks_known")?;
    if let Some(idle) = OTHERS.iter().find(|name| reader.text(name).is_some())
        && given.is_none()
    {
        let remedy = "give object.pack_below as well (0: none), or leave this out";
        return Err(reader.wrong(idle, Problem::new("no blocks are packed", remedy)));
    }
    let below_bytes = given.unwrap_or(0);
    Ok((below_bytes > 0).then_some(Packs {
        below_bytes,
        linger: linger.unwrap_or(LINGER_DEFAULT),
        freshness: freshness.unwrap_or(FRESHNESS_DEFAULT),
        blocks_known_max: known.unwrap_or(BLOCKS_KNOWN_DEFAULT),
    }))
}
