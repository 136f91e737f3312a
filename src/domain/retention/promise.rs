//! Promises to forget in headers that several nodes write, or one node in several lives.
//!
//! Who writes a record knows of some promises and not of others. What it does not know of it never
//! takes back.

use super::record::{RetentionRecord, Scope};
use crate::domain::units::Time;

impl RetentionRecord {
    /// With the promise to forget of a record that was found beside this one. The sooner counts, and one
    /// that a session made of its own is not for whoever came later to undo.
    #[must_use]
    pub fn keeping_promise(mut self, there: &Self) -> Self {
        self.delete_after = sooner(self.delete_after, there.delete_after);
        if there.is_sessions_promise() {
            self.scope = Scope::Session;
        }
        self
    }
}

/// A record that is to take the place of another one in a block's header.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord {
    pub record: RetentionRecord,
    /// The promise to forget that its owner knows of, and may have put off or taken back; zero: none.
    pub known: Time,
    /// When the block was stored that the record is for. What was to be forgotten before is another
    /// life of the block, which is over.
    pub stored_at: Time,
}

impl NewRecord {
    /// Comes with a frame that was stored then: what stands in the header already is not known.
    #[must_use]
    pub fn of_frame(record: RetentionRecord, stored_at: Time) -> Self {
        Self { record, known: Time::ZERO, stored_at }
    }

    /// Of a block that was there, with a promise that is known to stand in its header, if any.
    #[must_use]
    pub fn of_change(record: RetentionRecord, known: Time) -> Self {
        Self { record, known, stored_at: Time::ZERO }
    }

    /// What is to be written over a header that says what is `there`.
    #[must_use]
    pub fn over(&self, there: &RetentionRecord) -> RetentionRecord {
        if there.delete_after == self.known || there.is_due(self.stored_at) {
            return self.record;
        }
        self.record.keeping_promise(there)
    }

    /// The same over several headers of one block.
    #[must_use]
    pub fn over_all<'a>(
        &self,
        there: impl Iterator<Item = &'a RetentionRecord>,
    ) -> RetentionRecord {
        there.fold(self.record, |record, there| Self { record, ..*self }.over(there))
    }
}

fn sooner(one: Time, other: Time) -> Time {
    if one == Time::ZERO || other == Time::ZERO { one.max(other) } else { one.min(other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Time = Time::from_millis(1_000);
    const LATER: Time = Time::from_millis(2_000);
    const NEVER: Time = Time::ZERO;

    fn promised(delete_after: Time, scope: Scope) -> RetentionRecord {
        RetentionRecord { delete_after, scope, ..RetentionRecord::default() }
    }

    #[test]
    fn a_promise_that_is_not_known_stands_and_a_known_one_is_put_off() {
        // Written, known, there, what stands then.
        let cases = [
            (NEVER, NEVER, AT, AT),
            (LATER, NEVER, AT, AT),
            (AT, NEVER, LATER, AT),
            (AT, NEVER, NEVER, AT),
            (LATER, AT, AT, LATER),
            (NEVER, AT, AT, NEVER),
            (NEVER, LATER, AT, AT),
            (NEVER, AT, NEVER, NEVER),
        ];
        for (written, known, there, stands) in cases {
            let new = NewRecord::of_change(promised(written, Scope::Global), known);
            let after = new.over(&promised(there, Scope::Global));
            assert_eq!(after.delete_after, stands, "{written:?} over {there:?}, {known:?} known");
        }
    }

    #[test]
    fn a_sessions_promise_stays_its_own_and_nothing_else_is_kept() {
        let there = RetentionRecord { priority: 90, ..promised(AT, Scope::Session) };
        let new = NewRecord::of_frame(RetentionRecord::default(), Time::ZERO);
        assert_eq!(new.over(&there), promised(AT, Scope::Session));
        assert_eq!(new.over(&promised(AT, Scope::Project)), promised(AT, Scope::Global));
    }

    #[test]
    fn what_was_due_before_the_block_was_stored_anew_is_over() {
        let new = |stored_at| NewRecord::of_frame(RetentionRecord::default(), stored_at);
        let there = promised(AT, Scope::Session);
        assert_eq!(new(LATER).over(&there), RetentionRecord::default());
        assert_eq!(new(Time::ZERO).over(&there), there);
    }

    #[test]
    fn of_several_headers_the_soonest_promise_stands() {
        let there = [LATER, NEVER, AT].map(|at| promised(at, Scope::Global));
        let new = NewRecord::of_change(RetentionRecord::default(), NEVER);
        assert_eq!(new.over_all(there.iter()).delete_after, AT);
    }
}
