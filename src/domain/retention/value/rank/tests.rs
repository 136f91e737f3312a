//! The order against a naive model, and what priorities do in it.

use super::*;
use crate::domain::directory::test_rows;
use crate::domain::retention::value::tips::Tips;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What the naive model knows: every listed copy's standing, recomputed at each look.
struct Model {
    copies: BTreeMap<BlockIndex, Standing>,
    worth: BTreeMap<usize, (TipId, Worth)>,
}

/// The order that the policy is to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// By priority, then by use.
    Unclaimed(u8, u64),
    /// The rest by worth; the second is the last use of what nobody claims and somebody keeps.
    Worth(Level, Option<u64>),
}

impl Model {
    fn standing(&self, block: BlockIndex) -> Option<Standing> {
        let standing = *self.copies.get(&block)?;
        let claim = standing.claim.and_then(|(tip, _)| self.worth.get(&tip.slot()).copied());
        Some(Standing { claim, ..standing })
    }

    fn rank(&self, block: BlockIndex) -> Rank {
        let standing = self.standing(block).unwrap();
        let level = standing_level(&standing);
        match standing.claim {
            None if standing.priority <= PRIORITY_DEFAULT => {
                Rank::Unclaimed(standing.priority, standing.tick)
            }
            None => Rank::Worth(level, Some(standing.tick)),
            Some(_) => Rank::Worth(level, None),
        }
    }

    fn lowest(&self) -> Option<Rank> {
        self.copies.keys().map(|block| self.rank(*block)).min()
    }
}

/// Lists unclaimed copies of these priorities, and claimed ones of these levels and priorities;
/// gives the order in which they go, each by its number in that.
fn order(unclaimed: &[u8], claimed: &[(i16, u8)]) -> Vec<usize> {
    let (rows, mut tips) = (test_rows(12), Tips::new(8));
    let mut copies = BTreeMap::new();
    let standing = |priority, claim| Standing { tick: 1, key_bits: 0, priority, claim, cost: 0 };
    for (row, priority) in rows.iter().zip(unclaimed) {
        copies.insert(*row, standing(*priority, None));
    }
    for (row, (level, priority)) in rows.iter().skip(unclaimed.len()).zip(claimed) {
        let worth = Worth { level: Level::UNCLAIMED.raised(*level), used: 1 };
        copies.insert(*row, standing(*priority, Some((tips.add(), worth))));
    }
    let mut value = Value::default();
    for row in &rows[..copies.len()] {
        value.list(*row, &copies[row]);
    }
    let mut gone = Vec::new();
    while let Verdict::Goes(row) = value.victim(None, &mut |row| copies.get(&row).copied()) {
        copies.remove(&row);
        gone.extend(rows.iter().position(|other| *other == row));
    }
    gone
}

#[test]
fn priorities_count_where_nothing_is_known_of_the_chain() {
    let check = |unclaimed: &[u8], claimed: &[(i16, u8)], expected: &[usize]| {
        assert_eq!(order(unclaimed, claimed), expected, "{unclaimed:?} {claimed:?}");
    };
    check(&[90, 35, 10], &[], &[2, 1, 0]);
    check(&[35], &[(160, 35)], &[0, 1]);
    // Kept by its owner's word, a corpus stays longer than a chain left long since.
    check(&[90], &[(120, 0), (160, 35)], &[1, 0, 2]);
}

proptest! {
    /// Whatever is listed, moved, reprioritised, forgotten or taken back: the victim is of the
    /// lowest rank there is, every listed copy goes once, and a newcomer worth less goes first.
    #[test]
    fn agrees_with_a_sorted_list(
        ops in prop::collection::vec((0u8..8, 0u8..12, 0usize..5, 10i16..200), 1..300)
    ) {
        let (rows, mut tips) = (test_rows(12), Tips::new(8));
        let ids: Vec<TipId> = (0..5).map(|_| tips.add()).collect();
        let worth = |level: i16, used: u64| Worth { level: Level::UNCLAIMED.raised(level), used };
        let mut model = Model { copies: BTreeMap::new(), worth: BTreeMap::new() };
        let mut value = Value::default();
        for (tick, (op, n, tip, level)) in (1_u64..).zip(ops) {
            let (row, id) = (rows[n as usize], ids[tip]);
            match op {
                0 | 1 if !model.copies.contains_key(&row) => {
                    let priorities = [PRIORITY_DEFAULT, 80, 10, PRIORITY_DEFAULT, 60];
                    let priority = priorities[usize::from(level.unsigned_abs()) % 5];
                    let claim = Some((id, worth(0, 0)));
                    let standing = Standing { tick, key_bits: 0, priority, claim, cost: level % 3 };
                    model.copies.insert(row, standing);
                    value.list(row, &model.standing(row).unwrap());
                }
                2 | 3 => {
                    model.worth.insert(id.slot(), (id, worth(level, tick)));
                    value.tip_moved(id, Some(worth(level, tick)));
                }
                4 => {
                    model.worth.remove(&id.slot());
                    value.tip_moved(id, None);
                }
                5 => { model.copies.remove(&row); }
                _ => {
                    let newcomer = model.worth.get(&id.slot()).filter(|_| op == 6);
                    let newcomer = newcomer.map(|claim| Standing {
                        tick, key_bits: 0, priority: PRIORITY_DEFAULT, claim: Some(*claim), cost: 0,
                    });
                    let lowest = model.lowest();
                    let verdict = value.victim(newcomer.as_ref(), &mut |row| model.standing(row));
                    let most = newcomer.map(|newcomer| standing_level(&newcomer));
                    match (verdict, lowest) {
                        (Verdict::Goes(row), Some(lowest)) => {
                            prop_assert_eq!(model.rank(row), lowest);
                            model.copies.remove(&row);
                        }
                        (Verdict::Newcomer, Some(Rank::Worth(level, _))) => {
                            prop_assert!(most.unwrap() < level);
                        }
                        (verdict, lowest) => prop_assert_eq!((verdict, lowest), (Verdict::Nobody, None)),
                    }
                }
            }
        }
        // Nothing is lost: what is left comes out, in order, and then no more.
        while let Some(lowest) = model.lowest() {
            let Verdict::Goes(row) = value.victim(None, &mut |row| model.standing(row)) else {
                panic!("{} copies are lost", model.copies.len());
            };
            prop_assert_eq!(model.rank(row), lowest);
            model.copies.remove(&row);
        }
        prop_assert_eq!(value.victim(None, &mut |row| model.standing(row)), Verdict::Nobody);
    }

    /// While LRU decides, the least recently used of the lowest priority goes, whatever it is worth; and
    /// back again.
    #[test]
    fn lru_decides_when_told_to(ticks in prop::collection::btree_set(1_u64..1000, 1..12)) {
        let (rows, mut tips) = (test_rows(12), Tips::new(8));
        let ids: Vec<TipId> = (0..3).map(|_| tips.add()).collect();
        let mut value = Value::default();
        let mut copies = BTreeMap::new();
        for (at, tick) in ticks.iter().rev().enumerate() {
            let level = i16::try_from(10 + at).unwrap();
            let worth = Worth { level: Level::UNCLAIMED.raised(level % 3), used: 0 };
            let claim = Some((ids[at % 3], worth));
            let priority = [PRIORITY_DEFAULT, 80, 10][at / 3 % 3];
            let standing = Standing { tick: *tick, key_bits: 0, priority, claim, cost: 0 };
            copies.insert(rows[at], standing);
            value.list(rows[at], &standing);
        }
        value.let_lru_decide(true);
        for _ in 0..copies.len() / 2 {
            let rank = |standing: &Standing| (standing.priority, standing.tick);
            let lowest = copies.values().map(rank).min().unwrap();
            let Verdict::Goes(row) = value.victim(None, &mut |row| copies.get(&row).copied()) else {
                panic!("copies are left");
            };
            prop_assert_eq!(rank(&copies.remove(&row).unwrap()), lowest);
        }
        value.let_lru_decide(false);
        while let Verdict::Goes(row) = value.victim(None, &mut |row| copies.get(&row).copied()) {
            copies.remove(&row);
        }
        prop_assert!(copies.is_empty());
    }
}
