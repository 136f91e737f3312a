//! An agent's context: so many tokens, and the ids of the full blocks they make.

use crate::workload::request::{IdRun, push_id};

/// Hands out block ids, dense in the order they are asked for.
pub(super) struct BlockIds {
    block_tokens: u32,
    next: u64,
}

impl BlockIds {
    pub(super) const fn new(block_tokens: u32) -> Self {
        Self { block_tokens, next: 0 }
    }
}

/// A sequence of tokens. Only ever grows, so an id stands for one whole prefix; a clone that grows
/// apart gets ids of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    tokens: u32,
    block_count: u32,
    blocks: Vec<IdRun>,
}

impl Context {
    pub(super) const fn tokens(&self) -> u32 {
        self.tokens
    }

    pub(super) fn blocks(&self) -> &[IdRun] {
        &self.blocks
    }

    pub(super) fn grow(&mut self, tokens: u32, ids: &mut BlockIds) {
        self.tokens = self.tokens.saturating_add(tokens);
        while self.block_count < self.tokens / ids.block_tokens {
            push_id(&mut self.blocks, ids.next);
            ids.next += 1;
            self.block_count += 1;
        }
    }
}
