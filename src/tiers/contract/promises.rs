//! Promises to forget in a store that several nodes write.

use super::Fixture;
use crate::domain::retention::{RetentionRecord, Scope};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Place, StoreError, StoreOp};

const BLOCK: Sample = Sample { number: 1, payload_bytes: 20_000 };

const NEVER: Time = Time::ZERO;
/// When the block is stored; and at which times it is promised to be forgotten, or is stored anew.
const STORED: Time = Time::from_millis(1_000);
const SOON: Time = Time::from_millis(2_000);
const LATER: Time = Time::from_millis(3_000);
const LAST: Time = Time::from_millis(4_000);

/// What is done to the header of one block, one after the other.
enum Step {
    /// The block is written as one that was stored at that time, to be forgotten then.
    Write(Time, Time),
    /// Its record changes: when it is to be forgotten, and which promise is known to stand there.
    Restamp(Time, Time),
    /// By now it is to be forgotten then.
    Stands(Time),
}
use Step::{Restamp, Stands, Write};

const CASES: &[(&str, &[Step])] = &[
    (
        "who stores a block that is there takes back no promise",
        &[
            Write(STORED, NEVER),
            Restamp(LATER, NEVER),
            Write(STORED, NEVER),
            Stands(LATER),
            Write(STORED, LAST),
            Stands(LATER),
            Write(STORED, SOON),
            Stands(SOON),
        ],
    ),
    (
        "only who knows of a promise puts it off",
        &[
            Write(STORED, NEVER),
            Restamp(SOON, NEVER),
            Restamp(NEVER, NEVER),
            Stands(SOON),
            Restamp(LATER, SOON),
            Stands(LATER),
            Restamp(NEVER, SOON),
            Stands(LATER),
            Restamp(NEVER, LATER),
            Stands(NEVER),
        ],
    ),
    (
        "what was due before the block was stored anew is over",
        &[Write(STORED, NEVER), Restamp(SOON, NEVER), Write(LATER, NEVER), Stands(NEVER)],
    ),
];

/// Every write and record has a priority of its own: nothing else of a record is kept.
fn record(delete_after: Time, priority: usize) -> RetentionRecord {
    let priority = u8::try_from(priority).expect("cases are short");
    let scope = if delete_after == NEVER { Scope::Global } else { Scope::Session };
    RetentionRecord { delete_after, priority, scope, ..RetentionRecord::default() }
}

pub(super) fn check(make: &impl Fn() -> Fixture) {
    let fixture = make();
    if fixture.store.tier() != Tier::Object {
        return;
    }
    drop(fixture);
    for (case, steps) in CASES {
        let Fixture { store, arena, _keep, .. } = make();
        let mut priority = 0;
        for (at, step) in steps.iter().enumerate() {
            let ended = match *step {
                Write(stored_at, promise) => {
                    priority = at;
                    let new = (record(promise, at), stored_at);
                    sample::write_of(&*store, &arena, BLOCK, new)
                }
                Restamp(promise, known) => {
                    priority = at;
                    let (key, record) = (BLOCK.key(), record(promise, at));
                    let place = Place { offset: 0, slot_bytes: 0 };
                    sample::run(&*store, StoreOp::Restamp { key, place, record, known })
                }
                Stands(promise) => {
                    let there = sample::header(&*store, BLOCK).map(|header| header.meta.record);
                    let there = there.unwrap_or_else(|error| panic!("{case}, step {at}: {error}"));
                    assert_eq!(there, record(promise, priority), "{case}, step {at}");
                    Ok(())
                }
            };
            let ended: Result<(), StoreError> = ended;
            ended.unwrap_or_else(|error| panic!("{case}, step {at}: {error}"));
        }
    }
}
