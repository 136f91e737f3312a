//! What the GPU does by the simplest means there are: single copy calls between plain memories. What
//! the device's own copies are held against.
//!
//! Knows no blocks, frames or pools, and shares no stream with the device.

use std::sync::Arc;
use std::time::Duration;

use super::super::runs::Run;
use super::driver::{Address, Driver, DriverError};
use super::memory::{DeviceMemory, Event, MappedMemory, OwnStream};
use crate::env::Stopwatch;

/// Which way plain copies go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainWay {
    /// From pinned memory of this machine to the GPU.
    Up,
    /// Back.
    Down,
    /// Within the GPU.
    Local,
    /// So many bytes up, and the others down at the same time.
    Both { up_bytes: u64 },
}

/// Plain memories on both sides, and two streams.
pub struct PlainCopies {
    driver: Arc<dyn Driver>,
    bytes: u64,
    host: MappedMemory,
    /// Twice as long: the pages of `copy` lie apart there, and copies within it have room for both
    /// ends.
    there: DeviceMemory,
    streams: [OwnStream; 2],
    landed: [Event; 2],
}

impl PlainCopies {
    pub(super) fn new(driver: &Arc<dyn Driver>, bytes: u64) -> Result<Self, DriverError> {
        Ok(Self {
            driver: Arc::clone(driver),
            bytes,
            host: MappedMemory::new(driver, bytes)?,
            there: DeviceMemory::new(driver, 2 * bytes)?,
            streams: [OwnStream::new(driver)?, OwnStream::new(driver)?],
            landed: [Event::new(driver)?, Event::new(driver)?],
        })
    }

    /// Copies `bytes` bytes in calls of `call_bytes` each, and says how long that took. Where calls
    /// are shorter than the whole, their ends on the GPU lie apart, as pages do; within it they follow
    /// each other.
    ///
    /// # Errors
    /// What the driver said.
    ///
    /// # Panics
    /// The memories are shorter than `bytes`.
    pub fn copy(&self, way: PlainWay, bytes: u64, call_bytes: u64) -> Result<Duration, String> {
        assert!(bytes <= self.bytes, "{bytes} of {} bytes", self.bytes);
        let calls = calls(way, [self.host.at, self.there.at], [bytes, self.bytes], call_bytes);
        let watch = Stopwatch::start();
        let queued = self.queue(&calls);
        // What was queued before an error is waited for as well.
        let landed = self.land();
        let ended = queued.and(landed);
        ended.map_err(|error| format!("plain copies on {}: {error}", self.driver.facts()))?;
        Ok(watch.elapsed())
    }

    fn queue(&self, calls: &[(usize, Run)]) -> Result<(), DriverError> {
        for (stream, run) in calls {
            // SAFETY: `calls` keeps both ends inside the two memories, which nobody else knows and
            // which outlive the wait that follows; no two calls of it touch the same bytes.
            unsafe { self.driver.copy(*run, self.streams[*stream].id) }?;
        }
        Ok(())
    }

    fn land(&self) -> Result<(), DriverError> {
        let both = self.streams.iter().zip(&self.landed);
        both.clone().try_for_each(|(stream, landed)| self.driver.record(landed.id, stream.id))?;
        both.map(|(_, landed)| landed).try_for_each(|landed| self.driver.wait(landed.id))
    }
}

/// The copy calls and the stream of each; of both ways in turns. `lengths` are what is copied, and
/// what the host's memory holds.
fn calls(
    way: PlainWay,
    [host, there]: [Address; 2],
    [bytes, memory_bytes]: [u64; 2],
    call_bytes: u64,
) -> Vec<(usize, Run)> {
    let step = if call_bytes < bytes { 2 } else { 1 };
    let pieces = |bytes: std::ops::Range<u64>| {
        let at = bytes.clone().step_by(usize::try_from(call_bytes.max(1)).unwrap_or(usize::MAX));
        at.map(move |at| (at, call_bytes.min(bytes.end - at)))
    };
    let up = |(at, bytes)| (0, Run { from: host + at, to: there + step * at, bytes });
    let down = |(at, bytes)| (1, Run { from: there + step * at, to: host + at, bytes });
    let local = |(at, bytes)| (0, Run { from: there + at, to: there + memory_bytes + at, bytes });
    match way {
        PlainWay::Up => pieces(0..bytes).map(up).collect(),
        PlainWay::Down => pieces(0..bytes).map(down).collect(),
        PlainWay::Local => pieces(0..bytes).map(local).collect(),
        PlainWay::Both { up_bytes } => {
            let up_bytes = up_bytes.min(bytes);
            let (mut up, mut down) =
                (pieces(0..up_bytes).map(up), pieces(up_bytes..bytes).map(down));
            std::iter::from_fn(|| match (up.next(), down.next()) {
                (None, None) => None,
                pair => Some([pair.0, pair.1].into_iter().flatten()),
            })
            .flatten()
            .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeDriver, Kind};
    use super::*;

    const BYTES: u64 = 64 << 10;

    fn on(driver: &Arc<FakeDriver>) -> PlainCopies {
        let driver = Arc::clone(driver) as Arc<dyn Driver>;
        PlainCopies::new(&driver, BYTES).unwrap()
    }

    #[test]
    fn bytes_are_where_the_way_says() {
        let words: Vec<u64> = (0..BYTES / 8).map(|at| at * 31 + 7).collect();
        let half = words.len() / 2;
        for call_bytes in [BYTES, 4096, 512] {
            let driver = Arc::new(FakeDriver::new(true));
            let plain = on(&driver);
            plain.host.write(0, &words);
            plain.copy(PlainWay::Up, BYTES, call_bytes).unwrap();
            plain.host.write(0, &vec![0_u64; words.len()]);
            plain.copy(PlainWay::Down, BYTES, call_bytes).unwrap();
            assert_eq!(plain.host.read(0, words.len()), words, "calls of {call_bytes}");
            // Of both ways the upper half comes back, and the lower half goes.
            plain.host.write(0, &vec![1_u64; words.len()]);
            plain.copy(PlainWay::Both { up_bytes: BYTES / 2 }, BYTES, call_bytes).unwrap();
            assert_eq!(plain.host.read(BYTES / 2, half), words[half..]);
            plain.copy(PlainWay::Down, BYTES, call_bytes).unwrap();
            assert_eq!(plain.host.read(0, half), vec![1; half]);
            plain.copy(PlainWay::Local, BYTES, call_bytes).unwrap();
            let each = BYTES.div_ceil(call_bytes);
            let both = 2 * (BYTES / 2).div_ceil(call_bytes);
            assert_eq!(driver.calls("copy"), 4 * each + both, "calls of {call_bytes}");
        }
    }

    #[test]
    fn what_the_driver_refuses_is_told_and_all_is_given_back() {
        let driver = Arc::new(FakeDriver::new(true));
        let plain = on(&driver);
        driver.refuse("copy", 700, 1);
        let said = plain.copy(PlainWay::Up, BYTES, BYTES).unwrap_err();
        assert!(said.contains("no GPU") && said.contains("CUDA_ERROR_700"), "{said}");
        drop(plain);
        for kind in [Kind::Device, Kind::Host] {
            assert_eq!(driver.memories(kind), 0, "{kind:?}");
        }
    }
}
