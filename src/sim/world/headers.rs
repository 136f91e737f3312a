//! What a daemon leaves for the next one: in its headers what its owners asked for, as it knew it, and
//! nothing in slots that nobody has.

use std::collections::BTreeSet;

use crate::domain::block::Key;
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::manager::api::{ClientId, Command, Event, Reply};
use crate::sim::machine::Checked;

use super::Subject;
use super::core::Core;

impl<S: Subject> Core<S> {
    /// The daemon is asked to end: what waits to be written is written.
    pub(super) fn stop(&mut self) -> Checked {
        self.stopped = true;
        self.tell(Event::Stopping)
    }

    /// Where nothing failed, every header of a daemon that has stopped says what the directory says.
    pub(super) fn check_headers(&mut self) -> Checked {
        if !self.stopped || !self.scenario.is_faultless || self.outages > 0 {
            return Ok(());
        }
        for block in self.subject.residents() {
            let record = self.record_of(block.key)?;
            let cold = block.after.iter().filter(|tier| [Tier::Nvme, Tier::Object].contains(tier));
            for tier in cold {
                // A header that nobody has read may say more.
                let is_known = tier == Tier::Nvme || self.checker.knows_header(block.key);
                let is_said = |header: &RetentionRecord| asks_the_same(header, &record, self.now);
                if is_known && !self.machine.is_said_of(tier, block.key, is_said) {
                    return Err(format!("{} stopped on {tier} without {record:?}", block.key));
                }
            }
        }
        Ok(())
    }

    /// Where nothing failed, a scan finds one frame for each block that is served from there, and no other:
    /// nobody would know what became of that one's block.
    pub(super) fn check_frames(&self) -> Checked {
        if !self.scenario.is_faultless || self.outages > 0 {
            return Ok(());
        }
        let residents = self.subject.residents();
        let served = residents.iter().filter(|block| block.after.has(Tier::Nvme));
        let mut served: BTreeSet<Key> = served.map(|block| block.key).collect();
        match self.machine.readable_frames().find(|key| !served.remove(key)) {
            Some(key) => Err(format!("a restart would find {key} in a slot that nobody has")),
            None => Ok(()),
        }
    }

    fn record_of(&mut self, key: Key) -> Checked<RetentionRecord> {
        match self.ask(ClientId(0), Command::Inspect { key })? {
            Reply::Inspect(status) => Ok(status.record),
            other => Err(format!("the answer to Inspect was {other:?}")),
        }
    }
}

/// Whether a restart would notice no difference, but for a shield that was renewed.
fn asks_the_same(one: &RetentionRecord, other: &RetentionRecord, now: Time) -> bool {
    let lasting = |record: &RetentionRecord| RetentionRecord {
        shield_until: Time::ZERO,
        refresh_on_hit_ms: 0,
        ..record.standing(now)
    };
    lasting(one) == lasting(other)
}
