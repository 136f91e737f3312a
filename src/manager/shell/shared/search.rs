//! Where a chain's stored prefix ends, narrowed down round by round.
//!
//! Assumes that what is stored has no holes; a hole only makes the answer too long or too short.
//! Asks nobody.

use std::collections::BTreeMap;

use super::Stretch;
use crate::tiers::frame::FrameHeader;

/// Questions asked at once, at most: what the store takes without making one wait for another.
pub(super) const ROUND_MAX: usize = 128;

/// And at least, as long as so many are open: a round costs time, a question little.
const ROUND_MIN: usize = 16;

pub(super) struct Search {
    known: usize,
    /// The blocks before `low` are there, the one at `high` is not, or is the chain's end.
    low: usize,
    high: usize,
    headers: BTreeMap<usize, FrameHeader>,
}

impl Search {
    pub fn new(known: usize, end: usize) -> Self {
        Self { known, low: known, high: end.max(known), headers: BTreeMap::new() }
    }

    /// The indices to ask for next, in order; none: the end is found.
    ///
    /// The square root of what is open, so that two rounds settle it: all that lies between two
    /// neighbours of the first is asked for in the second. The very first block is always among
    /// them, since mostly there is nothing.
    pub fn next_round(&self) -> Vec<usize> {
        let open = self.high - self.low;
        let narrowed = !self.headers.is_empty();
        if open <= ROUND_MIN || narrowed && open <= ROUND_MAX {
            return (self.low..self.high).collect();
        }
        let count = (open.isqrt() + 1).clamp(ROUND_MIN, ROUND_MAX - 1);
        let at = |probe: usize| self.low + (probe * (open + 1)).div_ceil(count + 1) - 1;
        let mut round: Vec<usize> = (1..=count).map(at).collect();
        if round[0] != self.low {
            round.insert(0, self.low);
        }
        round
    }

    /// Whether these questions are all that is open.
    pub fn is_settled_by(&self, round: &[usize]) -> bool {
        round.len() == self.high - self.low
    }

    pub fn there(&mut self, at: usize, header: FrameHeader) {
        self.low = self.low.max(at + 1);
        self.headers.insert(at, header);
    }

    pub fn missing(&mut self, at: usize) {
        self.high = self.high.min(at);
        self.low = self.low.min(self.high);
    }

    /// The first of the blocks that are there whose headers were not read.
    pub fn unread(&self, most: usize) -> Vec<usize> {
        let between = self.known..self.low;
        between.filter(|at| !self.headers.contains_key(at)).take(most).collect()
    }

    pub fn stretch(self) -> Stretch {
        let end = self.low;
        let mut headers = self.headers;
        drop(headers.split_off(&end));
        Stretch { end, headers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::shell::shared::tests::header;

    /// The rounds that it takes, and the most questions of one, where `stored` blocks are there.
    fn rounds(known: usize, stored: usize, end: usize) -> (usize, usize) {
        let (mut search, any) = (Search::new(known, end), header(0));
        let (mut rounds, mut widest) = (0, 0);
        loop {
            let round = search.next_round();
            if round.is_empty() {
                break;
            }
            assert!(round.windows(2).all(|two| two[0] < two[1]), "{round:?}");
            assert!(round.iter().all(|at| (search.low..search.high).contains(at)));
            (rounds, widest) = (rounds + 1, widest.max(round.len()));
            for at in round {
                if at >= stored {
                    search.missing(at);
                    break;
                }
                search.there(at, any);
            }
        }
        assert_eq!(search.low, stored.max(known), "{known} known, {stored} stored of {end}");
        (rounds, widest)
    }

    #[test]
    fn the_end_is_found_wherever_it_is() {
        for end in [1, 2, 15, 16, 17, 18, 100, 128, 129, 300, 1000] {
            for stored in 0..=end {
                for known in [0, 1, end / 2] {
                    rounds(known, stored, end);
                }
            }
        }
    }

    #[test]
    fn eight_thousand_blocks_take_two_rounds_and_nothing_takes_one_question_more() {
        for stored in (0..=8000).step_by(7).chain([1, 7999, 8000]) {
            let (rounds, widest) = rounds(0, stored, 8000);
            assert!(rounds <= 2 && widest <= ROUND_MAX, "{stored}: {rounds} of {widest}");
        }
        assert_eq!(rounds(0, 0, 8000).0, 1);
        for stored in (0..=65_536).step_by(997) {
            assert!(rounds(0, stored, 65_536).0 <= 3);
        }
    }
}
