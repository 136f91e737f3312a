//! What is to happen when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::domain::units::Time;

struct Entry<T> {
    at: Time,
    number: u64,
    what: T,
}

/// A heap by time; what falls on the same time comes in the order it was added.
pub(crate) struct Timeline<T> {
    entries: BinaryHeap<Entry<T>>,
    added: u64,
}

impl<T> Default for Timeline<T> {
    fn default() -> Self {
        Self { entries: BinaryHeap::new(), added: 0 }
    }
}

impl<T> Timeline<T> {
    pub(crate) fn add(&mut self, at: Time, what: T) {
        self.entries.push(Entry { at, number: self.added, what });
        self.added += 1;
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<Time> {
        self.entries.peek().map(|entry| entry.at)
    }

    /// The next thing that happens no later than `until`.
    pub(crate) fn pop_until(&mut self, until: Time) -> Option<(Time, T)> {
        if self.entries.peek()?.at > until {
            return None;
        }
        self.entries.pop().map(|entry| (entry.at, entry.what))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// Reversed, since the heap gives its greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_times_keep_their_order() {
        let mut timeline = Timeline::default();
        for (millis, what) in [(2, 'c'), (1, 'a'), (2, 'd'), (1, 'b'), (3, 'e')] {
            timeline.add(Time::from_millis(millis), what);
        }
        let until = |timeline: &mut Timeline<char>, millis| {
            let pop = || timeline.pop_until(Time::from_millis(millis)).map(|(_, what)| what);
            std::iter::from_fn(pop).collect::<String>()
        };
        assert_eq!(until(&mut timeline, 2), "abcd");
        assert_eq!(until(&mut timeline, 9), "e");
    }
}
