//! Priorities for policies that know none: a list each, and the lowest goes first.
//!
//! Blocks of the usual priority are on one list, so they pay nothing for the others.

use std::collections::BTreeMap;

use super::policy::{Policy, Standing, Verdict};
use super::record::PRIORITY_DEFAULT;
use crate::domain::directory::BlockIndex;

/// Ranks copies of one priority.
pub trait Order: Default + Send {
    const NAME: &'static str;

    fn list(&mut self, block: BlockIndex, tick: u64, key_bits: u64);

    /// As [`Policy::victim`]; `judge` gives the tick of the copy's last use.
    fn victim(&mut self, judge: &mut dyn FnMut(BlockIndex) -> Option<u64>) -> Option<BlockIndex>;

    fn is_empty(&self) -> bool;

    /// As [`Policy::retain`].
    fn retain(&mut self, keep: &mut dyn FnMut(BlockIndex) -> bool);
}

/// One order a priority in use.
#[derive(Default)]
pub struct Banded<O> {
    usual: O,
    others: BTreeMap<u8, O>,
    /// Copies whose priority turned out to have changed.
    strays: Vec<(BlockIndex, Standing)>,
}

impl<O: Order> Banded<O> {
    /// The lowest priority that anything is listed under.
    pub fn lowest(&self) -> Option<u8> {
        let usual = (!self.usual.is_empty()).then_some(PRIORITY_DEFAULT);
        self.others.keys().next().copied().into_iter().chain(usual).min()
    }

    /// As [`Policy::victim`], of what has at most this priority; the victim's own comes along.
    pub fn victim_up_to(
        &mut self,
        priority_max: u8,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Standing>,
    ) -> Option<(BlockIndex, u8)> {
        // Strays may open bands below the one being looked at; each is listed once, so this ends.
        while let Some(band) = self.lowest().filter(|band| *band <= priority_max) {
            let Some(victim) = self.victim_of(band, judge) else { continue };
            if self.lowest().is_none_or(|lowest| lowest >= band) {
                return Some((victim, band));
            }
            // Strays of lower priority turned up on the way, and go before it.
            if let Some(standing) = judge(victim) {
                self.list(victim, &standing);
            }
        }
        None
    }

    /// The band's next copy to go; those that turned out to belong elsewhere are listed there.
    fn victim_of(
        &mut self,
        band: u8,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Standing>,
    ) -> Option<BlockIndex> {
        let Self { usual, others, strays } = self;
        let order = if band == PRIORITY_DEFAULT { usual } else { others.get_mut(&band)? };
        let victim = order.victim(&mut |block| {
            let standing = judge(block)?;
            if standing.priority != band {
                strays.push((block, standing));
                return None;
            }
            Some(standing.tick)
        });
        if order.is_empty() {
            self.others.remove(&band);
        }
        for (block, standing) in std::mem::take(&mut self.strays) {
            self.list(block, &standing);
        }
        victim
    }
}

impl<O: Order> Policy for Banded<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn list(&mut self, block: BlockIndex, standing: &Standing) {
        let order = match standing.priority {
            PRIORITY_DEFAULT => &mut self.usual,
            priority => self.others.entry(priority).or_default(),
        };
        order.list(block, standing.tick, standing.key_bits);
    }

    fn victim(
        &mut self,
        _newcomer: Option<&Standing>,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Standing>,
    ) -> Verdict {
        self.victim_up_to(u8::MAX, judge).map(|(victim, _)| victim).into()
    }

    fn retain(&mut self, keep: &mut dyn FnMut(BlockIndex) -> bool) {
        let Self { usual, others, .. } = self;
        others.range_mut(..PRIORITY_DEFAULT).for_each(|(_, order)| order.retain(keep));
        usual.retain(keep);
        others.range_mut(PRIORITY_DEFAULT..).for_each(|(_, order)| order.retain(keep));
        others.retain(|_, order| !order.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::directory::test_rows;
    use crate::domain::retention::lru::Lru;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn standing(tick: u64, priority: u8) -> Standing {
        Standing { tick, key_bits: 0, priority, claim: None, cost: 0 }
    }

    proptest! {
        /// Whatever is listed, reprioritised or taken back, the lowest priority goes first, and within
        /// it the least recently used; nothing is lost or named twice.
        #[test]
        fn agrees_with_a_sorted_list(
            ops in prop::collection::vec((0u8..4, 0u8..12, 0usize..4), 1..300)
        ) {
            let rows = test_rows(12);
            let mut banded = Banded::<Lru>::default();
            let mut model: BTreeMap<BlockIndex, Standing> = BTreeMap::new();
            for (tick, (op, n, level)) in (1_u64..).zip(ops) {
                let row = rows[n as usize];
                let priority = [0, 10, PRIORITY_DEFAULT, 80][level];
                match op {
                    0 if !model.contains_key(&row) => {
                        model.insert(row, standing(tick, priority));
                        banded.list(row, &model[&row]);
                    }
                    1 if model.contains_key(&row) => {
                        model.insert(row, standing(tick, priority));
                        banded.list(row, &model[&row]);
                    }
                    2 => { model.remove(&row); }
                    _ => {
                        let lowest = model.values().map(|s| (s.priority, s.tick)).min();
                        let victim = banded.victim(None, &mut |row| model.get(&row).copied());
                        let Verdict::Goes(victim) = victim else {
                            prop_assert_eq!((victim, lowest), (Verdict::Nobody, None));
                            continue;
                        };
                        let went = model.remove(&victim).unwrap();
                        prop_assert_eq!(Some((went.priority, went.tick)), lowest);
                    }
                }
            }
        }
    }
}
