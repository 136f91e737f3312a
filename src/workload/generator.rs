//! A made-up but lifelike workload: lead agents that call tools, wait for people, start sub-agents,
//! reset their context when it is full, and end.
//!
//! Deterministic: a seed gives the same requests on every machine, so nothing here uses floating
//! point or anything else whose last bit may differ. Yields requests in time order and keeps only
//! what the agents still alive need.

mod agent;
mod context;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::domain::units::Time;

use super::draw::Draw;
pub use super::draw::Quantiles;
use super::request::{Request, Stop, Trigger};

use agent::{Agent, Next};
use context::{BlockIds, Context};

/// What the generated agents are like. Times and sizes are spread as in the Claude Code traces of
/// `kv-cache-tester`: short gaps after tools with a long tail, minutes after a turn's end.
#[derive(Clone, Debug)]
pub struct AgenticParams {
    pub seed: u64,
    pub block_tokens: u32,
    /// Lead agents in all; sub-agents come on top.
    pub leads: u32,
    /// The leads start spread evenly over this time.
    pub starts_within_s: u32,
    /// Different products, that is different system prompts and tools; leads of one product share
    /// that prefix, and so do their sub-agents.
    pub products: u32,
    /// System prompt and tools of a product.
    pub prefix_tokens: Quantiles,
    /// What a person writes, what a tool returns, what the model answers.
    pub user_tokens: Quantiles,
    pub tool_tokens: Quantiles,
    pub output_tokens: Quantiles,
    /// What a context is replaced by at a reset, after the prefix.
    pub summary_tokens: Quantiles,
    /// The context that leads to a reset.
    pub context_tokens_max: u32,
    pub tool_gap_ms: Quantiles,
    pub user_gap_ms: Quantiles,
    pub lead_turns: Quantiles,
    pub sub_turns: Quantiles,
    /// How many of a lead's turns end, in percent; the others call tools.
    pub end_turn_percent: u32,
    /// How many of a lead's tool calls start sub-agents, in percent, and how many at most.
    pub spawn_percent: u32,
    pub subs_max: u32,
}

impl Default for AgenticParams {
    fn default() -> Self {
        Self {
            seed: 1,
            block_tokens: 64,
            leads: 24,
            starts_within_s: 600,
            products: 3,
            prefix_tokens: Quantiles([8_000, 12_000, 16_000, 20_000, 24_000, 32_000]),
            user_tokens: Quantiles([20, 100, 300, 800, 3_000, 20_000]),
            tool_tokens: Quantiles([30, 200, 700, 2_000, 5_000, 25_000]),
            output_tokens: Quantiles([10, 100, 220, 450, 1_200, 8_000]),
            summary_tokens: Quantiles([1_000, 2_000, 3_000, 5_000, 8_000, 12_000]),
            context_tokens_max: 120_000,
            tool_gap_ms: Quantiles([50, 300, 1_600, 8_000, 70_000, 600_000]),
            user_gap_ms: Quantiles([2_000, 40_000, 163_000, 600_000, 1_800_000, 5_400_000]),
            lead_turns: Quantiles([3, 15, 40, 80, 160, 300]),
            sub_turns: Quantiles([2, 5, 9, 16, 30, 60]),
            end_turn_percent: 7,
            spawn_percent: 4,
            subs_max: 4,
        }
    }
}

/// The workload itself: an iterator that ends when every agent has.
pub struct Agentic {
    params: AgenticParams,
    draw: Draw,
    ids: BlockIds,
    /// Each product's prefix; its blocks get their ids at first use.
    products: Vec<Context>,
    agents: Vec<Option<Agent>>,
    /// When which agent asks next; the second number keeps equal times in the order they came.
    due: BinaryHeap<Reverse<(Time, u64, usize)>>,
    dues: u64,
    sessions: u64,
}

impl Agentic {
    #[must_use]
    pub fn new(params: AgenticParams) -> Self {
        let mut draw = Draw::new(params.seed);
        let mut ids = BlockIds::new(params.block_tokens.max(1));
        let products = (0..params.products.max(1))
            .map(|_| {
                let mut context = Context::default();
                context.grow(draw.from(&params.prefix_tokens), &mut ids);
                context
            })
            .collect();
        let mut workload = Self {
            draw,
            ids,
            products,
            agents: Vec::new(),
            due: BinaryHeap::new(),
            dues: 0,
            sessions: 0,
            params,
        };
        (0..workload.params.leads).for_each(|_| workload.add_lead());
        workload
    }

    fn add_lead(&mut self) {
        let starts_within_ms = self.params.starts_within_s.saturating_mul(1000);
        let start = Time::from_millis(u64::from(self.draw.below(starts_within_ms.max(1))));
        let product = self.draw.index(self.products.len());
        let mut context = self.products[product].clone();
        context.grow(self.draw.from(&self.params.user_tokens), &mut self.ids);
        let turns_left = self.draw.from(&self.params.lead_turns);
        let agent = Agent::lead(self.sessions, product, turns_left, context);
        self.sessions += 1;
        self.add(agent, start);
    }

    fn add(&mut self, agent: Agent, start: Time) {
        self.agents.push(Some(agent));
        self.wake(self.agents.len() - 1, start);
    }

    fn wake(&mut self, agent: usize, at: Time) {
        self.due.push(Reverse((at, self.dues, agent)));
        self.dues += 1;
    }

    /// The agent's request of this moment; its own state moves on to the next.
    fn ask(&mut self, now: Time, index: usize) -> Option<Request> {
        let mut agent = self.agents[index].take()?;
        let output_tokens = self.draw.from(&self.params.output_tokens);
        let api_ms = api_ms(agent.context.tokens(), output_tokens);
        let next = agent.decide(&self.params, &mut self.draw);
        let request = Request {
            t: now,
            session: agent.session,
            sub: agent.sub,
            turn: agent.turn,
            input_tokens: agent.context.tokens(),
            output_tokens,
            api_ms: Some(api_ms),
            stop: if next.calls_a_tool() { Stop::ToolUse } else { Stop::EndTurn },
            trigger: agent.trigger,
            blocks: agent.context.blocks().to_vec(),
        };
        agent.turn += 1;
        agent.context.grow(output_tokens, &mut self.ids);
        self.proceed(index, agent, next, now + std::time::Duration::from_millis(api_ms.into()));
        Some(request)
    }

    /// What follows the answer that came at `answered`.
    fn proceed(&mut self, index: usize, mut agent: Agent, next: Next, answered: Time) {
        let (trigger, tokens, gap) = match next {
            Next::End => return self.end(&agent, answered),
            Next::Spawn { subs } => return self.spawn(index, agent, subs, answered),
            Next::Tool => (Trigger::Tool, &self.params.tool_tokens, &self.params.tool_gap_ms),
            Next::User => (Trigger::User, &self.params.user_tokens, &self.params.user_gap_ms),
        };
        let tokens = self.draw.from(tokens);
        let at = answered + std::time::Duration::from_millis(self.draw.from(gap).into());
        agent.trigger = trigger;
        self.extend(&mut agent, tokens);
        self.agents[index] = Some(agent);
        self.wake(index, at);
    }

    /// Adds to the agent's context, or starts it anew from a summary when it is full.
    fn extend(&mut self, agent: &mut Agent, tokens: u32) {
        agent.context.grow(tokens, &mut self.ids);
        if agent.context.tokens() > self.params.context_tokens_max {
            agent.context = self.products[agent.product].clone();
            agent.context.grow(self.draw.from(&self.params.summary_tokens), &mut self.ids);
        }
    }

    fn spawn(&mut self, index: usize, mut lead: Agent, subs: u32, answered: Time) {
        for _ in 0..subs {
            let mut context = self.products[lead.product].clone();
            context.grow(self.draw.from(&self.params.user_tokens), &mut self.ids);
            let turns_left = self.draw.from(&self.params.sub_turns);
            lead.subs_started += 1;
            let sub = Agent::sub_of(&lead, index, turns_left, context);
            self.add(sub, answered);
        }
        lead.subs_running = subs;
        lead.trigger = Trigger::Tool;
        self.agents[index] = Some(lead);
    }

    /// The agent is done: a sub-agent's report goes to its lead, which goes on after the last one.
    fn end(&mut self, agent: &Agent, answered: Time) {
        let Some(index) = agent.lead else { return };
        let Some(mut lead) = self.agents[index].take() else { return };
        let report = self.draw.from(&self.params.tool_tokens);
        self.extend(&mut lead, report);
        lead.subs_running -= 1;
        if lead.subs_running == 0 {
            self.wake(index, answered);
        }
        self.agents[index] = Some(lead);
    }
}

/// How long a call takes: a fixed part, prefill at about 20,000 tokens a second where little is
/// cached, and output at about 80 tokens a second.
fn api_ms(input_tokens: u32, output_tokens: u32) -> u32 {
    800 + input_tokens / 200 + output_tokens.saturating_mul(12)
}

impl Iterator for Agentic {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        loop {
            let Reverse((now, _, agent)) = self.due.pop()?;
            if let Some(request) = self.ask(now, agent) {
                return Some(request);
            }
        }
    }
}

#[cfg(test)]
mod tests;
