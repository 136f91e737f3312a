//! One agent: what it is, and what it does after an answer.

use crate::workload::draw::Draw;
use crate::workload::request::Trigger;

use super::AgenticParams;
use super::context::Context;

/// An agent between two requests.
pub(super) struct Agent {
    pub(super) session: u64,
    pub(super) sub: u32,
    /// A sub-agent's lead, by index.
    pub(super) lead: Option<usize>,
    pub(super) product: usize,
    pub(super) turn: u32,
    turns_left: u32,
    pub(super) trigger: Trigger,
    pub(super) context: Context,
    pub(super) subs_started: u32,
    /// While there are any, the agent waits.
    pub(super) subs_running: u32,
}

/// What follows an answer.
#[derive(Clone, Copy)]
pub(super) enum Next {
    Tool,
    User,
    Spawn { subs: u32 },
    End,
}

impl Next {
    pub(super) const fn calls_a_tool(self) -> bool {
        matches!(self, Self::Tool | Self::Spawn { .. })
    }
}

impl Agent {
    pub(super) fn lead(session: u64, product: usize, turns_left: u32, context: Context) -> Self {
        Self {
            session,
            sub: 0,
            lead: None,
            product,
            turn: 0,
            turns_left,
            trigger: Trigger::User,
            context,
            subs_started: 0,
            subs_running: 0,
        }
    }

    /// The sub-agent that `lead` (at `index`) started last.
    pub(super) fn sub_of(lead: &Self, index: usize, turns_left: u32, context: Context) -> Self {
        Self {
            sub: lead.subs_started,
            lead: Some(index),
            trigger: Trigger::Tool,
            ..Self::lead(lead.session, lead.product, turns_left, context)
        }
    }

    pub(super) fn decide(&mut self, params: &AgenticParams, draw: &mut Draw) -> Next {
        self.turns_left = self.turns_left.saturating_sub(1);
        if self.turns_left == 0 {
            Next::End
        } else if self.lead.is_some() {
            Next::Tool
        } else if draw.percent(params.end_turn_percent) {
            Next::User
        } else if params.subs_max > 0 && draw.percent(params.spawn_percent) {
            Next::Spawn { subs: 1 + draw.below(params.subs_max) }
        } else {
            Next::Tool
        }
    }
}
