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
    /// By now it is to be forgotten then. Whoever wrote last was told, if that is not what it wrote.
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
    RetentionRecord { priority, delete_after, scope, ..RetentionRecord::default() }
}

pub(super) fn check(make: &impl Fn() -> Fixture) {
    let fixture = make();
    if fixture.store.tier() != Tier::Object {
        return;
    }
    drop(fixture);
    for (case, steps) in CASES {
        let Fixture { store, arena, _keep, .. } = make();
        let place = Place { offset: 0, slot_bytes: 0 };
        let (mut given, mut ended) = (RetentionRecord::default(), Ok(()));
        for (at, step) in steps.iter().enumerate() {
            match *step {
                Write(stored_at, promise) => {
                    given = record(promise, at);
                    ended = sample::write_of(&*store, &arena, BLOCK, (given, stored_at));
                }
                Restamp(promise, known) => {
                    given = record(promise, at);
                    let op = StoreOp::Restamp { key: BLOCK.key(), place, record: given, known };
                    ended = sample::run(&*store, op);
                }
                Stands(promise) => {
                    let stands = RetentionRecord { priority: given.priority, ..record(promise, 0) };
                    let there = sample::header(&*store, BLOCK).expect("it was written");
                    assert_eq!(there.meta.record, stands, "{case}, step {at}");
                    let told = match &ended {
                        Ok(()) => given,
                        Err(StoreError::Outdone(header)) => header.meta.record,
                        Err(error) => panic!("{case}, step {at}: {error}"),
                    };
                    assert_eq!(told, stands, "{case}, step {at}");
                }
            }
        }
    }
}
