//! Which class a tip waits in: what is known of it, in a few steps each.

use std::time::Duration;

use super::survival::{Path, Survival};
use crate::domain::session::Stop;

/// What a tip waits for, and so which tables know how long that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The next request since the last one began.
    Turn,
    /// The next request since the model answered, or a tool returned.
    Answer,
    /// A return to a branch that was left.
    Branch,
    /// The next chain that begins with a stretch that others began with.
    Stem,
}

impl Wait {
    pub const COUNT: usize = 4;

    pub const fn index(self) -> usize {
        self as usize
    }

    pub fn tables() -> [Survival; Self::COUNT] {
        [
            Survival::new([1, 2, PACES * 2, PACES * TURNS * 2]),
            Survival::new([1, STOPS * 2, STOPS * PACES * 2, STOPS * PACES * SIZES * 2]),
            Survival::new([1, 1, 1, LEFT]),
            Survival::new([1, 1, TURNS + 1, (TURNS + 1) * PACES]),
        ]
    }
}

/// Steps of a pace; the last one is for paces not yet known.
const PACES: u16 = 9;
const TURNS: u16 = 3;
const STOPS: u16 = 4;
const SIZES: u16 = 4;
const LEFT: u16 = 4;

/// Why a branch was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The session was reset, and said so.
    Reset,
    /// The last block or two came out differently.
    Rewritten,
    /// The last stretch did.
    Revised,
    /// The session went on elsewhere.
    Abandoned,
}

/// How fast a tip's requests follow one another: a moving average of the gaps' logarithms.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace(Option<f32>);

impl Pace {
    const SHORTEST_S: f32 = 0.05;
    /// How much of the average the latest gap is.
    const NEWEST: f32 = 0.2;

    pub fn learn(&mut self, gap: Duration) {
        let log = gap.as_secs_f32().max(Self::SHORTEST_S).ln();
        self.0 = Some(self.0.map_or(log, |mean| mean + Self::NEWEST * (log - mean)));
    }

    /// Eight steps of a factor of three, from less than a third of a second up.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7")]
    fn step(self) -> u16 {
        let step = |mean: f32| (mean / 3.0_f32.ln() + 2.0).floor().clamp(0.0, 7.0) as u16;
        self.0.map_or(PACES - 1, step)
    }
}

/// What is known of an agent's chain, and goes with it when it leaves a branch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Habits {
    /// From request to request.
    pub turn: Pace,
    /// From an answer to the next request, where a tool was called and where the turn ended.
    pub tool: Pace,
    pub user: Pace,
    pub turns: u32,
    pub subagent: bool,
}

/// Why an idle tip waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Idle {
    Stopped(Stop),
    /// The tool returned: the next request is about to come.
    ToolReturned,
}

impl Idle {
    const fn step(self) -> u16 {
        match self {
            Self::Stopped(Stop::ToolUse) => 0,
            Self::Stopped(Stop::EndTurn) => 1,
            Self::Stopped(Stop::Unknown) => 2,
            Self::ToolReturned => 3,
        }
    }
}

impl Habits {
    /// The class of one whose request has begun.
    pub fn running(&self) -> Path {
        let (sub, pace) = (u16::from(self.subagent), self.turn.step());
        let turns = match self.turns {
            0 => 0,
            1..=3 => 1,
            _ => 2,
        };
        [0, sub, pace * 2 + sub, (pace * TURNS + turns) * 2 + sub]
    }

    /// The class of one whose request was answered with so many tokens.
    pub fn idle(&self, idle: Idle, output_tokens: u32) -> Path {
        let (sub, stop) = (u16::from(self.subagent), idle.step());
        let pace = if idle == Idle::Stopped(Stop::EndTurn) { self.user } else { self.tool }.step();
        let size = match output_tokens {
            0..=99 => 0,
            100..=299 => 1,
            300..=999 => 2,
            _ => 3,
        };
        let paced = stop * PACES + pace;
        [0, stop * 2 + sub, paced * 2 + sub, (paced * SIZES + size) * 2 + sub]
    }

    /// The class of a stretch that several chains began with.
    pub fn stem(&self) -> Path {
        let turns = match self.turns {
            0 => 0,
            1 => 1,
            2..=5 => 2,
            _ => 3,
        };
        [0, 0, turns, self.turn.step() * (TURNS + 1) + turns]
    }

    pub const fn branch(left: Left) -> Path {
        [0, 0, 0, left as u16]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_its_table() {
        let mut tables = Wait::tables();
        let gaps = [0, 1, 2, 9, 40, 200, 900, 4000].map(Duration::from_secs);
        let paces = gaps.map(|gap| {
            let mut pace = Pace::default();
            pace.learn(gap);
            pace
        });
        let idles = [
            Idle::Stopped(Stop::ToolUse),
            Idle::Stopped(Stop::EndTurn),
            Idle::Stopped(Stop::Unknown),
            Idle::ToolReturned,
        ];
        for turn in paces.into_iter().chain([Pace::default()]) {
            for (turns, subagent) in [(0, true), (2, false), (9, true)] {
                let habits = Habits { turn, tool: turn, user: turn, turns, subagent };
                tables[Wait::Turn.index()].returned(habits.running(), 0, 1.0);
                tables[Wait::Stem.index()].returned(habits.stem(), 0, 1.0);
                for (idle, tokens) in idles.into_iter().zip([0, 150, 500, u32::MAX]) {
                    tables[Wait::Answer.index()].returned(habits.idle(idle, tokens), 0, 1.0);
                }
            }
        }
        for left in [Left::Reset, Left::Rewritten, Left::Revised, Left::Abandoned] {
            tables[Wait::Branch.index()].returned(Habits::branch(left), 0, 1.0);
        }
        let steps: Vec<_> = paces.iter().map(|pace| pace.step()).collect();
        assert_eq!(steps, [0, 2, 2, 4, 5, 6, 7, 7]);
    }
}
