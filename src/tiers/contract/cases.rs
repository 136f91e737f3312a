//! The contract's cases, as data: what is done to a fresh store, and what it must answer.

use crate::domain::tier::Tier;
use crate::tiers::frame::HEADER_BYTES;

use super::rig::{Block, Ended, Rig, WRITTEN};
use super::{Fixture, PAYLOADS_BYTES};

/// Blocks by number, slots of the first chunk by index.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u32, u32),
    Erase(u32, u32),
    /// Gives the block in the slot another record; then the same where it is not found.
    Restamp(u32, u32, u8),
    RestampMissing(u32, u32),
    RestampDisplaced(u32, u32),
    /// Reads the block from the slot: its bytes come back, with the record that was put there.
    Stamped(u32, u32, u8),
    /// Asks for the block's header alone, where the store is asked by key.
    Peek(u32, Option<u8>),
    /// Reads the block from the slot: its bytes come back.
    Whole(u32, u32),
    Missing(u32, u32),
    /// Another block lies at that place. A store that goes by key does not care.
    Displaced(u32, u32),
    /// Nothing of that key was written, and another block lies at that place.
    NotThisKey(u32, u32),
    /// Flips a bit of the stored frame, then reads it.
    CorruptAfterFlip(u32, u32, At),
    Restart,
    /// The store is asked to keep what it has, and says that it does.
    Sync,
    /// A scan finds exactly these blocks in these slots, with these records.
    Scan(&'static [(u32, u32, u8)]),
}

#[derive(Clone, Copy, Debug)]
enum At {
    Magic,
    HeaderEnd,
    PayloadStart,
    PayloadEnd,
}

use Step::{
    CorruptAfterFlip, Displaced, Erase, Missing, NotThisKey, Peek, Restamp, RestampDisplaced,
    RestampMissing, Restart, Scan, Stamped, Sync, Whole, Write,
};

/// Cases run with every payload length.
const AT_EVERY_LENGTH: &[(&str, &[Step])] = &[
    ("what was written comes back", &[Write(1, 0), Whole(1, 0), Whole(1, 0)]),
    (
        "neighbours are apart",
        &[
            Write(1, 0),
            Write(2, 1),
            Write(3, 2),
            Erase(2, 1),
            Whole(1, 0),
            Missing(2, 1),
            Whole(3, 2),
        ],
    ),
    (
        "a flipped bit is seen at either end of the payload",
        &[
            Write(1, 0),
            CorruptAfterFlip(1, 0, At::PayloadStart),
            Write(2, 1),
            CorruptAfterFlip(2, 1, At::PayloadEnd),
        ],
    ),
];

/// Cases of changed records, run with every payload length.
const RECORDS: &[(&str, &[Step])] = &[
    (
        "the record written last counts and the payload stays",
        &[
            Write(1, 0),
            Write(2, 1),
            Restamp(1, 0, 10),
            Stamped(1, 0, 10),
            Restamp(1, 0, 20),
            Restamp(1, 0, 30),
            Stamped(1, 0, 30),
            Whole(2, 1),
        ],
    ),
    (
        "a write brings its own record",
        &[
            Write(1, 0),
            Restamp(1, 0, 10),
            Write(1, 0),
            Whole(1, 0),
            Restamp(1, 0, 20),
            Stamped(1, 0, 20),
        ],
    ),
    (
        "what is not there takes no record",
        &[
            RestampMissing(1, 0),
            Missing(1, 0),
            Write(1, 0),
            RestampDisplaced(2, 0),
            Whole(1, 0),
            Erase(1, 0),
            RestampMissing(1, 0),
            Missing(1, 0),
        ],
    ),
    (
        "a flipped bit of a payload is seen beside a new record",
        &[Write(1, 0), Restamp(1, 0, 10), CorruptAfterFlip(1, 0, At::PayloadEnd)],
    ),
    (
        "headers are looked at alone",
        &[
            Peek(1, None),
            Write(1, 0),
            Peek(1, Some(WRITTEN)),
            Restamp(1, 0, 10),
            Peek(1, Some(10)),
            Peek(2, None),
            Erase(1, 0),
            Peek(1, None),
        ],
    ),
    (
        "a record outlives a restart and a scan tells it",
        &[
            Write(1, 0),
            Write(2, 1),
            Restamp(1, 0, 10),
            Restart,
            Scan(&[(1, 0, 10), (2, 1, WRITTEN)]),
            Restamp(1, 0, 20),
            Restamp(2, 1, 30),
            Restart,
            Stamped(1, 0, 20),
            Scan(&[(1, 0, 20), (2, 1, 30)]),
        ],
    ),
];

/// Cases run with one payload length.
const CASES: &[(&str, &[Step])] = &[
    ("never written is missing", &[Missing(1, 0), Write(1, 0), Missing(2, 1), Missing(3, 7)]),
    ("erased is missing", &[Write(1, 0), Erase(1, 0), Missing(1, 0), Missing(1, 0)]),
    ("erasing nothing is no error", &[Erase(1, 0), Missing(1, 0), Erase(1, 0), Missing(1, 0)]),
    ("erased can be written again", &[Write(1, 0), Erase(1, 0), Write(1, 0), Whole(1, 0)]),
    ("another block's place is no source", &[Write(1, 0), NotThisKey(2, 0), Whole(1, 0)]),
    ("a place takes another block", &[Write(1, 0), Write(2, 0), Whole(2, 0), Displaced(1, 0)]),
    ("a block written twice is one", &[Write(1, 0), Write(1, 0), Whole(1, 0)]),
    ("a block in two places", &[Write(1, 0), Write(1, 3), Whole(1, 0), Whole(1, 3)]),
    (
        "a flipped bit is seen in the header",
        &[
            Write(1, 0),
            CorruptAfterFlip(1, 0, At::Magic),
            Write(2, 1),
            CorruptAfterFlip(2, 1, At::HeaderEnd),
        ],
    ),
    (
        "a corrupt place can be erased and written again",
        &[
            Write(1, 0),
            CorruptAfterFlip(1, 0, At::PayloadStart),
            Erase(1, 0),
            Missing(1, 0),
            Write(1, 0),
            Whole(1, 0),
        ],
    ),
    (
        "frames outlive a restart and erased ones stay erased",
        &[
            Write(1, 0),
            Write(2, 1),
            Write(3, 2),
            Erase(2, 1),
            Restart,
            Whole(1, 0),
            Missing(2, 1),
            Whole(3, 2),
            Missing(4, 3),
        ],
    ),
    (
        "what is kept stays as it was",
        &[
            Sync,
            Write(1, 0),
            Write(2, 1),
            Sync,
            Whole(1, 0),
            Restamp(1, 0, 10),
            Erase(2, 1),
            Sync,
            Sync,
            Stamped(1, 0, 10),
            Missing(2, 1),
            Restart,
            Sync,
            Scan(&[(1, 0, 10)]),
        ],
    ),
    (
        "a scan finds what is there",
        &[
            Write(1, 0),
            Write(2, 1),
            Write(3, 5),
            Erase(2, 1),
            Restart,
            Scan(&[(1, 0, WRITTEN), (3, 5, WRITTEN)]),
            Erase(1, 0),
            Restart,
            Scan(&[(3, 5, WRITTEN)]),
        ],
    ),
    ("a scan of nothing finds nothing", &[Restart, Scan(&[])]),
];

pub(super) fn check(make: &dyn Fn() -> Fixture) {
    for payload_bytes in PAYLOADS_BYTES {
        for (name, steps) in AT_EVERY_LENGTH.iter().chain(RECORDS) {
            run(Rig::new(make()), name, payload_bytes, steps);
        }
    }
    for (name, steps) in CASES {
        run(Rig::new(make()), name, PAYLOADS_BYTES[1], steps);
    }
}

fn run(mut rig: Rig, name: &str, payload_bytes: u32, steps: &[Step]) {
    for (index, step) in steps.iter().enumerate() {
        match take(&mut rig, payload_bytes, *step) {
            Taken::AsWanted => {}
            Taken::NotForThisStore => return,
            Taken::Otherwise(found) => panic!(
                "{}, {payload_bytes} bytes, \"{name}\": step {index}, {step:?}, ended as {found}",
                rig.tier()
            ),
        }
    }
}

enum Taken {
    AsWanted,
    Otherwise(String),
    /// The store offers no such thing (a restart, a way to corrupt it): the case ends here.
    NotForThisStore,
}

fn take(rig: &mut Rig, payload_bytes: u32, step: Step) -> Taken {
    let at = |number, slot| (Block { number, payload_bytes }, rig.place(0, slot, payload_bytes));
    let by_key = rig.tier() == Tier::Object;
    let (found, wanted) = match step {
        Write(number, slot) => {
            let (block, place) = at(number, slot);
            (rig.write(block, place), Ended::Ok)
        }
        Erase(number, slot) => {
            let (block, place) = at(number, slot);
            (rig.erase(block, place), Ended::Ok)
        }
        Whole(number, slot) => return stamped(rig.read_at(at(number, slot)), Some(WRITTEN)),
        Stamped(number, slot, priority) => {
            return stamped(rig.read_at(at(number, slot)), Some(priority));
        }
        Peek(number, priority) if by_key => return stamped(rig.peek(at(number, 0).0), priority),
        Restamp(number, slot, priority) => {
            let (block, place) = at(number, slot);
            (rig.restamp(block, place, priority), Ended::Ok)
        }
        RestampMissing(number, slot) => {
            let (block, place) = at(number, slot);
            (rig.restamp(block, place, 1), Ended::Missing)
        }
        RestampDisplaced(number, slot) => {
            let (block, place) = at(number, slot);
            let wanted = if by_key { Ended::Missing } else { Ended::Corrupt };
            (rig.restamp(block, place, 1), wanted)
        }
        Missing(number, slot) => (read(rig, at(number, slot)), Ended::Missing),
        Displaced(number, slot) => {
            (read(rig, at(number, slot)), if by_key { Ended::Ok } else { Ended::Corrupt })
        }
        NotThisKey(number, slot) => {
            (read(rig, at(number, slot)), if by_key { Ended::Missing } else { Ended::Corrupt })
        }
        CorruptAfterFlip(number, slot, byte) => {
            let (block, place) = at(number, slot);
            let Some(corrupt) = &rig.fixture.corrupt else { return Taken::NotForThisStore };
            corrupt(block.key(), place, byte_of(byte, payload_bytes));
            (rig.read(block, place).0, Ended::Corrupt)
        }
        Sync => (rig.sync(), Ended::Ok),
        Restart if rig.restart() => return Taken::AsWanted,
        Peek(..) | Restart => return Taken::NotForThisStore,
        Scan(wanted) => return scan(rig, payload_bytes, wanted),
    };
    if found == wanted { Taken::AsWanted } else { Taken::Otherwise(format!("{found:?}")) }
}

fn read(rig: &Rig, at: (Block, crate::tiers::store::Place)) -> Ended {
    rig.read_at(at).0
}

/// A block with this record, or none.
fn stamped(found: (Ended, Option<u8>), priority: Option<u8>) -> Taken {
    let wanted = (priority.map_or(Ended::Missing, |_| Ended::Ok), priority);
    if found == wanted { Taken::AsWanted } else { Taken::Otherwise(format!("{found:?}")) }
}

fn byte_of(at: At, payload_bytes: u32) -> usize {
    match at {
        At::Magic => 3,
        At::HeaderEnd => HEADER_BYTES - 1,
        At::PayloadStart => HEADER_BYTES,
        At::PayloadEnd => HEADER_BYTES + payload_bytes as usize - 1,
    }
}

fn scan(rig: &Rig, payload_bytes: u32, wanted: &[(u32, u32, u8)]) -> Taken {
    let by_key = rig.tier() == Tier::Object;
    let mut wanted: Vec<_> = wanted
        .iter()
        .map(|(number, slot, priority)| {
            let key = Block { number: *number, payload_bytes }.key();
            (key, (!by_key).then(|| rig.place(0, *slot, payload_bytes)), *priority)
        })
        .collect();
    wanted.sort_unstable();
    let found = rig.scan();
    if found == wanted { Taken::AsWanted } else { Taken::Otherwise(format!("{found:?}")) }
}
