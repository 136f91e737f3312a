//! A manager that ends, well or by a defect, and one that has too much to do.

use super::*;
use crate::domain::units::Time;

/// A clock that panics from some time on.
#[derive(Default)]
struct Brittle(AtomicBool);

impl Clock for Brittle {
    fn now(&self) -> Time {
        assert!(!self.0.load(Ordering::Relaxed), "as planned");
        Time::ZERO
    }
}

#[tokio::test]
async fn a_manager_that_ends_by_a_defect_is_known_to_have() {
    let clock = Arc::new(Brittle::default());
    let given = Arc::clone(&clock);
    let rig = Rig::start_with(|parts| parts.clock = given).await;
    let soon = Duration::from_secs(10);
    let none = tokio::time::timeout(Duration::from_millis(10), rig.shell.failed()).await;
    assert!(none.is_err(), "it lives");
    clock.0.store(true, Ordering::Relaxed);
    let said = rig.call(Command::Status).await;
    let Err(Refusal::Precondition(why)) = said else { panic!("{said:?}") };
    assert!(why.contains("ended by a defect"), "{why}");
    tokio::time::timeout(soon, rig.shell.failed()).await.unwrap();
    rig.shell.stop(Duration::ZERO);
}

#[tokio::test]
async fn a_manager_that_was_told_to_stop_has_no_defect() {
    let rig = Rig::start().await;
    let (failed, handle, client) = (rig.shell.failed(), rig.handle.clone(), rig.client);
    rig.shell.stop(Duration::ZERO);
    let said = handle.call(client, Command::Status).await;
    assert!(format!("{said:?}").contains("the daemon is stopping"), "{said:?}");
    assert!(tokio::time::timeout(Duration::from_millis(10), failed).await.is_err());
}

/// A clock that keeps whoever asks it waiting.
#[derive(Default)]
struct Held(AtomicBool);

impl Clock for Held {
    fn now(&self) -> Time {
        while self.0.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Time::ZERO
    }
}

#[tokio::test]
async fn whoever_joins_a_manager_with_too_much_to_do_is_told_so_at_once() {
    let clock = Arc::new(Held::default());
    let given = Arc::clone(&clock);
    let rig = Rig::start_with(|parts| parts.clock = given).await;
    clock.0.store(true, Ordering::Relaxed);
    for _ in 0..=COMMANDS_QUEUED_MAX {
        let unheard = rig.call(Command::Status);
        drop(tokio::time::timeout(Duration::ZERO, unheard).await);
    }
    let refused = rig.handle.join().map(drop);
    assert!(matches!(refused, Err(Refusal::Busy { .. })), "{refused:?}");
    clock.0.store(false, Ordering::Relaxed);
    rig.shell.stop(Duration::ZERO);
}
