//! What sessions and answers make of the tips.

use super::*;

fn keys(chain: &[u64]) -> Vec<Key> {
    chain.iter().map(|n| Key(u128::from(*n).to_le_bytes())).collect()
}

fn request(reuse: &mut Reuse, at_s: u64, session: u32, chain: &[u64]) -> TipId {
    let (chain, session) = (keys(chain), Some(SessionIndex(session)));
    let seen = Seen { chain: &chain, found: 0, session, subagent: false };
    reuse.request(Time::from_millis(1000 * at_s), &seen).tip
}

#[test]
fn a_chain_is_over_when_the_last_session_that_follows_it_says_so() {
    for chain in [&[1, 2, 3][..], &[1, 2, 3, 4]] {
        let mut reuse = Reuse::default();
        let first = request(&mut reuse, 1, 1, &[1, 2, 3]);
        let tip = request(&mut reuse, 2, 2, chain);
        assert_eq!(tip, first, "it goes on from what the other one left");
        let end = |reuse: &mut Reuse, at_s: u64, session: u32| {
            reuse.session_gone(Time::from_millis(1000 * at_s), SessionIndex(session), true);
            reuse.worth(tip).is_some_and(|worth| worth.level == Level::ENDED)
        };
        assert!(!end(&mut reuse, 3, 1), "the other one follows it");
        reuse.answered(Time::from_millis(4000), tip, Stop::ToolUse, 10);
        assert!(reuse.chance(tip).is_none_or(|chance| chance > 0.0), "and is heard");
        assert!(end(&mut reuse, 5, 2));
    }
}

#[test]
fn who_parts_from_a_chain_leaves_it_to_others_that_follow_it() {
    let mut reuse = Reuse::default();
    let tip = request(&mut reuse, 1, 1, &[1, 2, 3]);
    assert_eq!(request(&mut reuse, 2, 2, &[1, 2, 3]), tip, "they began alike");
    // The second one goes on from what is not the first one's end.
    assert_ne!(request(&mut reuse, 3, 2, &[1, 2, 9, 10, 11]), tip);
    assert_eq!(reuse.tips.get(tip).map(|tip| tip.state), Some(State::Running));
    reuse.answered(Time::from_millis(4000), tip, Stop::ToolUse, 10);
    let is_heard = |state: State| matches!(state, State::Idle { .. });
    assert!(reuse.tips.get(tip).is_some_and(|tip| is_heard(tip.state)));
    // And so the first one's, when it is alone.
    request(&mut reuse, 5, 1, &[21, 22]);
    assert_eq!(reuse.tips.get(tip).map(|tip| tip.state), Some(State::Left));
}

#[test]
fn who_went_on_elsewhere_follows_a_chain_no_longer() {
    let mut reuse = Reuse::default();
    let tip = request(&mut reuse, 1, 1, &[1, 2, 3]);
    request(&mut reuse, 2, 2, &[1, 2, 3]);
    request(&mut reuse, 3, 2, &[11, 12, 13]);
    reuse.session_gone(Time::from_millis(4000), SessionIndex(1), true);
    assert_eq!(reuse.worth(tip).map(|worth| worth.level), Some(Level::ENDED));
}

#[test]
fn whatever_is_said_of_a_wait_it_is_looked_at_once_a_bin() {
    let mut reuse = Reuse::default();
    let tip = request(&mut reuse, 1, 1, &[1, 2, 3]);
    reuse.answered(Time::from_millis(2000), tip, Stop::ToolUse, 10);
    let hours_later = Time::from_millis(10_000_000);
    for _ in 0..1000 {
        reuse.tool_started(hours_later, SessionIndex(1), None, None);
    }
    assert!(reuse.due.len() < 10, "{}", reuse.due.len());
}
