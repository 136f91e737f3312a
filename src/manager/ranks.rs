//! Ranks: in which order the copies of one tier and slot length go.
//!
//! First what is dead, then what the policy ranks lowest, and only when nothing else is left what
//! is shielded, soonest expiry first. Entries are looked at when they come up, so a change of a
//! block costs at most one new entry; what piles up so is cleared away.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::domain::directory::BlockIndex;
use crate::domain::retention::value::{TipId, Worth};
use crate::domain::retention::{Policy, Standing, Verdict};
use crate::domain::units::Time;

/// Where a copy that may go stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Dead,
    Ordinary,
    Shielded { until: Time },
}

/// A copy that may go now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub group: Group,
    pub standing: Standing,
    pub namespace: u32,
}

/// Who goes to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    Goes(BlockIndex),
    /// Whoever the room is for is worth less than all that may go.
    Newcomer,
    Nobody,
}

/// Shielded copies, soonest expiry first.
type ByExpiry = BinaryHeap<Reverse<(Time, BlockIndex)>>;

pub(super) struct Ranks {
    policy: Box<dyn Policy>,
    dead: VecDeque<BlockIndex>,
    /// By namespace: each has a budget of its own.
    shielded: BTreeMap<u32, ByExpiry>,
    /// On all lists.
    entries: usize,
}

/// So many entries are kept whatever there is to list.
const ENTRIES_SPARE: u64 = 1024;

impl Ranks {
    pub fn new(policy: Box<dyn Policy>) -> Self {
        Self { policy, dead: VecDeque::new(), shielded: BTreeMap::new(), entries: 0 }
    }

    pub fn list(&mut self, block: BlockIndex, candidate: Candidate) {
        self.entries += 1;
        match candidate.group {
            Group::Dead => self.dead.push_back(block),
            Group::Ordinary => self.policy.list(block, &candidate.standing),
            Group::Shielded { until } => shield(&mut self.shielded, until, block, candidate),
        }
    }

    /// The next copy to go to make room for `newcomer`, short of breaking a shield. `judge` knows how
    /// a listed copy stands now; nothing if it may not go, and then it is listed no more.
    pub fn victim(
        &mut self,
        newcomer: Option<&Candidate>,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Candidate>,
    ) -> Pick {
        let Self { policy, dead, shielded, entries } = self;
        let mut judge = |block| {
            let judged = judge(block);
            *entries -= usize::from(judged.is_none());
            judged
        };
        while let Some(block) = dead.pop_front() {
            match judge(block) {
                Some(Candidate { group: Group::Dead, .. }) => {
                    self.entries -= 1;
                    return Pick::Goes(block);
                }
                Some(Candidate { group: Group::Ordinary, standing, .. }) => {
                    policy.list(block, &standing);
                }
                Some(candidate @ Candidate { group: Group::Shielded { until }, .. }) => {
                    shield(shielded, until, block, candidate);
                }
                None => {}
            }
        }
        // What is shielded or dead competes by other rules than worth.
        let ordinary = newcomer.filter(|newcomer| newcomer.group == Group::Ordinary);
        let newcomer = ordinary.map(|newcomer| &newcomer.standing);
        let verdict = policy.victim(newcomer, &mut |block| {
            let candidate = judge(block)?;
            if let Group::Shielded { until } = candidate.group {
                shield(shielded, until, block, candidate);
                return None;
            }
            Some(candidate.standing)
        });
        match verdict {
            Verdict::Goes(block) => {
                self.entries -= 1;
                Pick::Goes(block)
            }
            Verdict::Newcomer => Pick::Newcomer,
            Verdict::Nobody => Pick::Nobody,
        }
    }

    /// Of the shielded copies the one that goes first, and whether it is shielded still.
    pub fn shielded_victim(
        &mut self,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Candidate>,
    ) -> Option<(BlockIndex, bool)> {
        loop {
            let soonest = self.shielded.iter().filter_map(|(ns, heap)| Some((heap.peek()?, *ns)));
            let (_, namespace) = soonest.max()?;
            let (listed_until, block) = self.pop_shielded(namespace)?;
            let Some(candidate) = judge(block) else { continue };
            match candidate.group {
                Group::Shielded { until } if until > listed_until => {
                    self.entries += 1;
                    shield(&mut self.shielded, until, block, candidate);
                }
                group => return Some((block, matches!(group, Group::Shielded { .. }))),
            }
        }
    }

    /// Takes the namespace's shielded copy that expires first off the list.
    pub fn pop_shielded(&mut self, namespace: u32) -> Option<(Time, BlockIndex)> {
        let Reverse(entry) = self.shielded.get_mut(&namespace)?.pop()?;
        self.entries -= 1;
        Some(entry)
    }

    /// Whether most entries must be of what changed or went, where the tier has so many copies.
    pub const fn is_overgrown(&self, copies: u64) -> bool {
        self.entries as u64 > 2 * copies + ENTRIES_SPARE
    }

    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// Leaves the entries that `keep` takes, asked in the order in which they would come up.
    pub fn tidy(&mut self, mut keep: impl FnMut(BlockIndex) -> bool) {
        let mut entries = 0;
        let mut keep = |block| {
            let kept = keep(block);
            entries += usize::from(kept);
            kept
        };
        self.dead.retain(|block| keep(*block));
        self.policy.retain(&mut keep);
        for heap in self.shielded.values_mut() {
            let soonest_first = std::mem::take(heap).into_sorted_vec().into_iter().rev();
            *heap = soonest_first.filter(|Reverse((_, block))| keep(*block)).collect();
        }
        self.entries = entries;
    }

    pub fn tip_moved(&mut self, tip: TipId, worth: Option<Worth>) {
        self.policy.tip_moved(tip, worth);
    }

    pub fn let_lru_decide(&mut self, decides: bool) {
        self.policy.let_lru_decide(decides);
    }

    /// The namespaces that have shielded copies listed here.
    pub fn shielding(&self) -> Vec<u32> {
        self.shielded.iter().filter(|(_, heap)| !heap.is_empty()).map(|(ns, _)| *ns).collect()
    }
}

fn shield(
    shielded: &mut BTreeMap<u32, ByExpiry>,
    until: Time,
    block: BlockIndex,
    candidate: Candidate,
) {
    shielded.entry(candidate.namespace).or_default().push(Reverse((until, block)));
}
