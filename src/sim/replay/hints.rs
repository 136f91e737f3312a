//! What the agents of a replayed trace say ahead of time.
//!
//! A trace shows only what happened, so what would have been said is read off what comes next: one
//! pass over the requests before the replay. Never tells the manager anything itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::domain::session::SessionName;
use crate::domain::units::Time;
use crate::workload::draw::Draw;
use crate::workload::request::IdRun;
use crate::workload::{Request, Stop};

/// How much the manager is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hints {
    /// Blocks only.
    #[default]
    None,
    /// What an engine knows: whose request it is, why the model stopped, how much it wrote.
    Engine,
    /// And when sessions and sub-agents end, and when a history is replaced.
    Lifecycle,
    /// And when a tool is expected back.
    Timing,
}

impl Hints {
    pub const ALL: [Self; 4] = [Self::None, Self::Engine, Self::Lifecycle, Self::Timing];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Engine => "engine",
            Self::Lifecycle => "lifecycle",
            Self::Timing => "timing",
        }
    }
}

impl fmt::Display for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The spread of announced times that people's estimates are taken to have.
pub const SIGMA: f64 = 0.5;

/// One request's future and past, as its agent knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// When the agent's next request comes; none if this is its last.
    pub next: Option<Time>,
    /// The request keeps less than half of what the agent's last one had.
    pub resets: bool,
}

/// Every request's outlook, in their order.
#[derive(Default)]
pub struct Foresight {
    outlooks: Vec<Outlook>,
    /// Each agent's last request so far.
    last: BTreeMap<(u64, u32), (usize, Vec<IdRun>)>,
}

impl Foresight {
    /// Takes in the next request.
    pub fn learn(&mut self, request: &Request) {
        let index = self.outlooks.len();
        let agent = (request.session, request.sub);
        let mut resets = false;
        if let Some((before, blocks)) = self.last.insert(agent, (index, request.blocks.clone())) {
            self.outlooks[before].next = Some(request.t);
            let had: u64 = blocks.iter().map(|run| u64::from(run.count)).sum();
            resets = shared_blocks(&blocks, &request.blocks) * 2 < had;
        }
        self.outlooks.push(Outlook { next: None, resets });
    }

    pub(crate) fn outlook(&self, request: usize) -> Outlook {
        self.outlooks.get(request).copied().unwrap_or_default()
    }
}

/// The length of the prefix that two lists share.
fn shared_blocks(one: &[IdRun], other: &[IdRun]) -> u64 {
    let ids =
        |runs: &'_ [IdRun]| -> Vec<u64> { runs.iter().copied().flat_map(IdRun::ids).collect() };
    let (one, other) = (ids(one), ids(other));
    one.iter().zip(&other).take_while(|(a, b)| a == b).count() as u64
}

/// What is said, and how well it is known.
pub struct Told {
    pub hints: Hints,
    /// Announced times are the true ones times e to a normal of this deviation.
    pub sigma: f64,
    pub foresight: Foresight,
    pub seed: u64,
}

/// The voice of all agents.
pub(super) struct Voice {
    pub hints: Hints,
    sigma: f64,
    foresight: Foresight,
    draw: Draw,
}

impl Voice {
    pub fn new(told: Told) -> Self {
        let Told { hints, sigma, foresight, seed } = told;
        Self { hints, sigma, foresight, draw: Draw::new(seed ^ 0x7e11) }
    }

    pub fn outlook(&self, request: usize) -> Outlook {
        self.foresight.outlook(request)
    }

    /// When the tool that the answer called is said to be back; only tools announce themselves.
    pub fn expected(&mut self, answered: Time, stop: Stop, outlook: Outlook) -> Option<Duration> {
        let next = outlook.next.filter(|_| self.hints >= Hints::Timing && stop == Stop::ToolUse)?;
        let factor = (self.sigma * self.normal()).exp();
        let longest = Duration::from_hours(24 * 365);
        let expected = next.since(answered).as_secs_f64() * factor;
        Some(Duration::try_from_secs_f64(expected).unwrap_or(longest).min(longest))
    }

    /// A number of the standard normal distribution (Box and Muller's way).
    fn normal(&mut self) -> f64 {
        let mut uniform = || (f64::from(self.draw.below(1 << 30)) + 0.5) / f64::from(1 << 30);
        let (radius, turn) = (uniform(), uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
    }
}

/// What a trace's agent is called.
pub(super) fn session_name(session: u64, sub: u32) -> SessionName {
    let name = if sub == 0 { format!("{session}") } else { format!("{session}.{sub}") };
    SessionName::new(&name).expect("a number is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(t: u64, sub: u32, blocks: &[(u64, u32)]) -> Request {
        let blocks =
            blocks.iter().map(|(first_id, count)| IdRun { first_id: *first_id, count: *count });
        Request { t: Time::from_millis(t), sub, blocks: blocks.collect(), ..Request::default() }
    }

    #[test]
    fn each_agent_sees_its_own_next_request() {
        let mut foresight = Foresight::default();
        foresight.learn(&request(0, 0, &[(0, 10)]));
        foresight.learn(&request(1, 1, &[(0, 2), (20, 8)]));
        foresight.learn(&request(2, 0, &[(0, 5), (30, 9)]));
        foresight.learn(&request(3, 0, &[(0, 5), (30, 1), (40, 2)]));
        let next = |at| foresight.outlook(at).next.map(Time::millis);
        assert_eq!([0, 1, 2, 3].map(next), [Some(2), None, Some(3), None]);
        let resets = [0, 1, 2, 3].map(|at| foresight.outlook(at).resets);
        assert_eq!(resets, [false, false, false, true]);
    }

    #[test]
    fn announced_times_lie_around_the_true_one() {
        let (next, foresight) = (Some(Time::from_millis(8_000)), Foresight::default());
        let outlook = Outlook { next, resets: false };
        let told = Told { hints: Hints::Timing, sigma: SIGMA, foresight, seed: 1 };
        let mut voice = Voice::new(told);
        let mut times: Vec<f64> = (0..2001)
            .filter_map(|_| voice.expected(Time::ZERO, Stop::ToolUse, outlook))
            .map(|time| time.as_secs_f64().ln())
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        let [low, middle, high] = [317, 1000, 1683].map(|at| times[at]);
        assert!((middle.exp() - 8.0).abs() < 0.4, "{middle}");
        assert!(((high - low) / 2.0 - SIGMA).abs() < 0.05, "{low} {high}");
        assert_eq!(voice.expected(Time::ZERO, Stop::EndTurn, outlook), None);
    }
}
