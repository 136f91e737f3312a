//! One request of a workload, whatever it came from.

pub use crate::domain::session::Stop;
use crate::domain::units::Time;

/// Blocks a request may name: 64 Mi tokens at 64 tokens a block, beyond any model's context. The
/// bound keeps a run-length list of a few bytes from asking for gigabytes.
pub const REQUEST_BLOCKS_MAX: u64 = 1 << 20;

/// The largest block id: ids are dense in first-use order, so a larger one is a broken file.
pub const BLOCK_ID_MAX: u64 = 1 << 48;

/// Blocks with the ids `first_id`, `first_id + 1`, … (`count` of them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRun {
    pub first_id: u64,
    pub count: u32,
}

impl IdRun {
    /// The ids of the run, in order.
    #[must_use]
    pub fn ids(self) -> std::ops::Range<u64> {
        self.first_id..self.first_id + u64::from(self.count)
    }
}

/// What caused a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// A tool's result.
    Tool,
    /// A person's message.
    User,
    #[default]
    Unknown,
}

/// One call of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// When it arrives. Traces count from their own beginning, so only differences mean anything.
    pub t: Time,
    /// The agent's conversation, unique within the workload.
    pub session: u64,
    /// 0 is the session's main agent, k its k-th sub-agent.
    pub sub: u32,
    /// Counts the agent's requests from 0.
    pub turn: u32,
    pub input_tokens: u32,
    pub output_tokens: u32,
    /// How long the call took, where that is known.
    pub api_ms: Option<u32>,
    pub stop: Stop,
    pub trigger: Trigger,
    /// The input's blocks, root first, run-length coded: equal ids are equal blocks with equal
    /// whole prefixes.
    pub blocks: Vec<IdRun>,
}

impl Request {
    /// How many blocks the input has.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.blocks.iter().map(|run| u64::from(run.count)).sum()
    }

    /// The ids of the input's blocks, root first.
    pub fn block_ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.iter().flat_map(|run| run.ids())
    }
}

/// Appends one id to a run-length list.
pub fn push_id(runs: &mut Vec<IdRun>, id: u64) {
    match runs.last_mut() {
        Some(run) if run.ids().end == id && run.count < u32::MAX => run.count += 1,
        _ => runs.push(IdRun { first_id: id, count: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_in_order() {
        let ids = [7, 8, 9, 3, 4, 9, 11];
        let mut request = Request::default();
        for id in ids {
            push_id(&mut request.blocks, id);
        }
        assert_eq!(request.blocks.len(), 4);
        assert_eq!(request.block_count(), 7);
        assert!(request.block_ids().eq(ids));
    }
}
