//! Any bytes as an envelope of hints and as a request body: no panic, and what is lowered stays
//! inside the bounds of one request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use terrace::domain::hint::{ACTIONS_MAX, Action, Outcome};
use terrace::domain::namespace::NamespaceDigest;
use terrace::domain::retention::directive::DIRECTIVES_MAX;
use terrace::hints::{Hashes, Part, Place, envelope, lower};

fuzz_target!(|bytes: &[u8]| {
    let mut hashes = Hashes::new(NamespaceDigest([7; 32]), 8, 1024);
    if let Ok(read) = envelope::read(bytes, &mut hashes) {
        let (actions, unanswered) = read.batch.split();
        actions.iter().for_each(check_lift);
        let outcomes = actions.iter().map(|_| Outcome::Accepted { blocks: 0 }).collect();
        let answered = unanswered.answered(outcomes).expect("as many outcomes as actions");
        assert!(answered.len() <= ACTIONS_MAX);
    }
    // The first bytes say how long the parts are, the others are the body.
    let (lengths, body) = bytes.split_at(bytes.len().min(16));
    let Ok(body) = serde_json::from_slice(body) else { return };
    let mut end = 0;
    let parts: Vec<Part> = lengths
        .iter()
        .enumerate()
        .map(|(index, tokens)| {
            end += u64::from(*tokens);
            let place = match index {
                0..2 => Place::Tool(index),
                2..4 => Place::System(index - 2),
                _ => Place::Message { message: (index - 4) / 3, block: (index - 4) % 3 },
            };
            Part { place, end }
        })
        .collect();
    if let Ok(lowered) = lower(&body, &parts) {
        assert!(lowered.directives.iter().count() <= DIRECTIVES_MAX);
        lowered.after.iter().for_each(check_lift);
    }
});

/// What is read as a lift is one that can be carried out.
fn check_lift(action: &Action) {
    if let Action::Prefetch { wish, .. } | Action::SpeculativePrefill { wish, .. } = action {
        wish.admit().expect("a deadline to come and a priority of 0 to 100");
    }
}
