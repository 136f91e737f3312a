//! What simulated clients ask beside their requests: sessions, directives, hints.
//!
//! Where everything stored must be found again, nothing is asked for that may forget it.

use std::time::Duration;

use bytes::Bytes;

use crate::domain::block::{HashTail, Key};
use crate::domain::hint::{Action, LiftWish, Target};
use crate::domain::retention::{Directive, Directives, Kind, Scope, Shield, TokenRange, Wish};
use crate::domain::session::{SessionName, Stop};
use crate::domain::tier::Tier;
use crate::manager::api::Labels;
use crate::workload::draw::Draw;

/// Few names, so that sessions meet.
const SESSIONS: u32 = 6;

fn name(number: u32) -> SessionName {
    SessionName::new(&format!("s{number}")).expect("a short name")
}

/// Most requests belong to a session.
pub(super) fn session(draw: &mut Draw) -> Option<SessionName> {
    draw.percent(70).then(|| name(draw.below(SESSIONS)))
}

pub(super) fn stop(draw: &mut Draw) -> Stop {
    [Stop::ToolUse, Stop::EndTurn, Stop::Unknown][draw.index(3)]
}

/// The directives of one store, mostly none. `may_forget`: also what lets blocks go early.
pub(super) fn directives(draw: &mut Draw, chain: u32, may_forget: bool) -> Directives {
    if draw.percent(60) {
        return Directives::default();
    }
    let cut = 1 + u64::from(draw.below(chain.max(1) * 2));
    let head = TokenRange { start: 0, end: Some(cut) };
    let tail = TokenRange { start: cut, end: None };
    let claims = [head, tail].map(|tokens| Directive { tokens, wish: wish(draw, may_forget) });
    Directives::admit(claims.to_vec()).expect("ranges that meet and times in bounds")
}

/// What routers know a store's blocks by: mostly their names, sometimes their tokens as well, or nothing.
pub(super) fn labels(draw: &mut Draw, keys: &[Key]) -> Labels {
    let (named, spelt) = [(false, false), (true, true), (true, false)][draw.index(3)];
    let tokens = |key: &Key| Bytes::copy_from_slice(&key.low_bits().to_le_bytes());
    Labels {
        tails: keys.iter().filter(|_| named).map(|key| HashTail(key.low_bits())).collect(),
        tokens: keys.iter().filter(|_| spelt).map(tokens).collect(),
    }
}

fn wish(draw: &mut Draw, may_forget: bool) -> Wish {
    let mut sometimes = |percent| draw.percent(percent);
    let chosen = [sometimes(40), sometimes(60), sometimes(30), sometimes(20), sometimes(20)];
    let [with_priority, with_shield, with_kind, with_floor, with_promise] = chosen;
    let ttl = Duration::from_millis(1 + u64::from(draw.below(5_000)));
    let lasts = draw.percent(50).then_some(ttl);
    let level = u8::try_from(draw.below(101)).expect("at most 100");
    let kind = Kind::ALL[draw.index(Kind::ALL.len())];
    let floor = Tier::ALL[draw.index(Tier::COUNT)];
    let scope = Scope::ALL[draw.index(Scope::ALL.len())];
    Wish {
        priority: with_priority.then_some((level, lasts)),
        shield: with_shield.then_some(Shield { ttl, refresh_on_hit: lasts.is_some() }),
        kind: (with_kind && may_forget).then_some(kind),
        floor: (with_floor && may_forget).then_some(floor),
        delete_after: (with_promise && may_forget).then_some(ttl),
        scope: (with_promise && may_forget).then_some(scope),
    }
}

/// Any action, about the blocks `keys` or any session.
pub(super) fn action(draw: &mut Draw, keys: &[Key], may_forget: bool) -> Action {
    let session = name(draw.below(SESSIONS));
    let tokens = TokenRange { start: draw.below(64).into(), end: None };
    let target = match draw.index(4) {
        0 => Target::Session { session: session.clone(), tokens },
        1 => Target::SessionTree(session.clone()),
        _ => Target::Keys(keys.to_vec()),
    };
    match draw.index(12) {
        0 => {
            let parent = draw.percent(60).then(|| name(draw.below(SESSIONS)));
            Action::SessionStart { session, parent }
        }
        1 if may_forget => Action::SessionEnd { session, tree: draw.percent(50) },
        2 if may_forget => Action::SessionReset { session },
        3 => {
            let expected =
                draw.percent(70).then(|| Duration::from_millis(draw.below(3_000).into()));
            Action::ToolStart { session, expected }
        }
        4 => Action::ToolReturn { session },
        5 => Action::Release { target },
        6 | 7 => {
            let wish = LiftWish {
                to: draw.percent(50).then(|| Tier::ALL[draw.index(Tier::COUNT)]),
                deadline: Some(Duration::from_millis(draw.below(3_000).into())),
                priority: Some(u8::try_from(draw.below(110)).expect("small")),
            };
            if draw.percent(50) {
                Action::Prefetch { target, wish }
            } else {
                Action::SpeculativePrefill { target, wish }
            }
        }
        8 => Action::CancelPrefetch { operation: draw.below(2_000).into() },
        9 => Action::Demote { target, to: Tier::ALL[draw.index(Tier::COUNT)] },
        _ => Action::Retain { target, wish: wish(draw, may_forget) },
    }
}
