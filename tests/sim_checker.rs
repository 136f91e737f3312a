//! The checker is worth what it finds: managers that break one rule each must be found out.
#![allow(clippy::unwrap_used, reason = "a test")]

use terrace::domain::block::{HashTail, Key};
use terrace::domain::directory::Change;
use terrace::domain::retention::RetentionRecord;
use terrace::domain::session::Stop;
use terrace::domain::units::Time;
use terrace::manager::api::{
    ClientId, Command, Effect, End, Event, OpKind, Reply, ReplyTag, RequestId,
};
use terrace::manager::{Manager, ManagerConfig};
use terrace::sim::scenario::{Level, Scenario};
use terrace::sim::world::{Subject, run};

/// One rule each that a manager can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breach {
    ForgetsCompletions,
    CompletesTwice,
    ForgetsReplies,
    RepliesTwice,
    SwapsSources,
    SwapsSlots,
    HidesFailures,
    FreesPoolsTwice,
    NeverFreesPools,
    StartsTwice,
    FindsTooMuch,
    IgnoresTime,
    ForgetsFrames,
    RestampsTwice,
    RestampsWhatIsNot,
    ServesLate,
    HidesChanges,
    TellsChangesTwice,
    LeasesHoldNothing,
    AwaitsNoEngine,
    CallsAllDurable,
    FlushesNothing,
    IgnoresPromises,
    WritesNoRecords,
    TellsOtherNames,
    AnswersOtherRequests,
    FreesForOthers,
    TakesWhatIsPresumed,
    LeavesFrames,
}

/// A manager that keeps every rule but one.
struct Broken {
    manager: Manager,
    breach: Breach,
}

impl Subject for Broken {
    fn step(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        let unheard = match event {
            Event::Tick => self.breach == Breach::IgnoresTime,
            Event::Found { .. } => self.breach == Breach::ForgetsFrames,
            _ => false,
        };
        if unheard {
            return;
        }
        let event = self.breach.mishear(event);
        let client = match &event {
            Event::Command { client, command: Command::Lookup { .. }, .. } => Some(*client),
            _ => None,
        };
        self.manager.step(now, event, effects);
        for again in self.breach.adds(client, effects) {
            self.manager.step(now, again, effects);
        }
        let honest = std::mem::take(effects);
        effects.extend(honest.into_iter().flat_map(|effect| self.breach.spoil(effect)));
    }

    fn check(&self) -> Result<(), String> {
        self.manager.check_invariants()
    }

    fn check_lists(&mut self) -> Result<(), String> {
        self.manager.check_ranks()
    }

    fn known_prefix(&self, keys: &[Key]) -> Option<usize> {
        self.manager.known_prefix(keys)
    }

    fn residents(&self) -> Vec<Change> {
        self.manager.residents(0, u32::MAX).0
    }
}

impl Breach {
    /// What the manager hears instead.
    fn mishear(self, mut event: Event) -> Event {
        match (self, &mut event) {
            (Self::IgnoresPromises, Event::Found { frame, .. }) => {
                frame.header.meta.record.delete_after = Time::ZERO;
            }
            (Self::TakesWhatIsPresumed, Event::Presumed { key, .. }) => *key = Key([9; Key::BYTES]),
            (Self::LeasesHoldNothing, Event::Command { command, .. }) => {
                // Those that it gave are back already.
                if matches!(command, Command::ReleaseLease { .. }) {
                    let (request, stop) = (RequestId(u64::MAX), Stop::Unknown);
                    let end =
                        Command::EndRequest { request, stop, output_tokens: 0, prefill: None };
                    *command = end;
                }
            }
            _ => {}
        }
        event
    }

    /// What the manager hears besides, after a step with these effects.
    fn adds(self, client: Option<ClientId>, effects: &mut Vec<Effect>) -> Vec<Event> {
        match self {
            Self::AwaitsNoEngine => {
                let waits =
                    effects.extract_if(.., |effect| matches!(effect, Effect::AwaitEngine { .. }));
                let came = waits.filter_map(|effect| match effect {
                    Effect::AwaitEngine { op, .. } => Some(Event::EngineCame { op, came: true }),
                    _ => None,
                });
                came.collect()
            }
            Self::LeasesHoldNothing => {
                let given = effects.iter().find_map(|effect| match effect {
                    Effect::Reply { reply: Reply::Lookup { lease, .. }, .. } => *lease,
                    _ => None,
                });
                let given = client.zip(given).map(|(client, lease)| Event::Command {
                    tag: ReplyTag(0),
                    client,
                    command: Command::ReleaseLease { lease },
                });
                given.into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// What comes of an honest effect.
    fn spoil(self, mut effect: Effect) -> Vec<Effect> {
        match (self, &mut effect) {
            (Self::ForgetsCompletions, Effect::Complete { completion, .. })
                if completion.op.0.is_multiple_of(9) =>
            {
                return Vec::new();
            }
            (Self::CompletesTwice, Effect::Complete { client, completion }) => {
                let again = Effect::Complete { client: *client, completion: completion.clone() };
                return vec![effect, again];
            }
            (Self::ForgetsReplies, Effect::Reply { tag, .. }) if tag.0.is_multiple_of(9) => {
                return Vec::new();
            }
            (Self::RepliesTwice, Effect::Reply { tag, reply }) => {
                let again = Effect::Reply { tag: *tag, reply: reply.clone() };
                return vec![effect, again];
            }
            (Self::SwapsSources, Effect::Start(transfer)) => swap(&mut transfer.items, |item| {
                (!matches!(item.from, End::Pool { .. } | End::Object)).then_some(&mut item.from)
            }),
            (Self::SwapsSlots, Effect::Start(transfer)) => swap(&mut transfer.items, |item| {
                matches!(item.to, End::Pool { .. }).then_some(&mut item.to)
            }),
            (Self::HidesFailures, Effect::Complete { completion, .. })
                if completion.kind == OpKind::Load =>
            {
                completion.failed.clear();
            }
            (Self::FreesPoolsTwice, Effect::PoolFreed { client, pool }) => {
                let again = Effect::PoolFreed { client: *client, pool: *pool };
                return vec![effect, again];
            }
            (Self::NeverFreesPools, Effect::PoolFreed { .. })
            | (Self::LeasesHoldNothing, Effect::Reply { tag: ReplyTag(0), .. }) => {
                return Vec::new();
            }
            (Self::StartsTwice, Effect::Start(transfer)) => {
                let again = Effect::Start(transfer.clone());
                return vec![effect, again];
            }
            (Self::FindsTooMuch, Effect::Reply { reply: Reply::Lookup { runs, .. }, .. }) => {
                if let Some(run) = runs.last_mut() {
                    run.blocks += 1;
                }
            }
            (Self::RestampsTwice, Effect::Restamp { tier, place, key, record, known }) => {
                let (tier, place, key, record, known) = (*tier, *place, *key, *record, *known);
                let again = Effect::Restamp { tier, place, key, record, known };
                return vec![effect, again];
            }
            (Self::RestampsWhatIsNot, Effect::Restamp { place: Some(place), .. }) => {
                place.offset += u64::from(place.slot_bytes) << 10;
            }
            (Self::ServesLate, Effect::Start(transfer)) => {
                let served = transfer.items.iter_mut();
                for item in served.filter(|item| matches!(item.to, End::Pool { .. })) {
                    item.meta.record.delete_after = Time::from_millis(1);
                }
            }
            (Self::HidesChanges, Effect::Residency { changes, .. }) if changes.len() > 2 => {
                changes.pop();
            }
            (Self::TellsChangesTwice, Effect::Residency { namespace, changes }) => {
                let again = Effect::Residency { namespace: *namespace, changes: changes.clone() };
                return vec![effect, again];
            }
            (Self::CallsAllDurable, Effect::Complete { completion, .. }) => {
                completion.not_durable.clear();
            }
            (Self::FlushesNothing, Effect::Start(transfer)) => {
                let copies = transfer.items.iter_mut().filter(|item| item.from != item.to);
                copies.for_each(|item| item.durable = false);
            }
            (Self::WritesNoRecords, Effect::Restamp { record, .. }) => {
                *record = RetentionRecord::default();
            }
            (Self::TellsOtherNames, Effect::Residency { changes, .. }) => {
                for change in changes {
                    change.tail = HashTail(change.position.into());
                }
            }
            (Self::AnswersOtherRequests, Effect::Complete { completion, .. }) => {
                completion.request = RequestId(u64::MAX);
            }
            (Self::LeavesFrames, Effect::Erase { place: Some(_), .. }) => return Vec::new(),
            (Self::FreesForOthers, Effect::PoolFreed { client, .. }) => {
                *client = ClientId(u64::MAX);
            }
            _ => {}
        }
        vec![effect]
    }
}

/// Exchanges what `field` names of the first two items that have it.
fn swap<T>(items: &mut [T], field: impl Fn(&mut T) -> Option<&mut End>) {
    let ends: Vec<&mut End> = items.iter_mut().filter_map(field).take(2).collect();
    if let Ok([one, other]) = <[&mut End; 2]>::try_from(ends) {
        std::mem::swap(one, other);
    }
}

/// A world makes its managers by a plain function, so each breach needs one of its own.
macro_rules! check {
    ($breach:ident, $level:ident, $says:literal) => {{
        fn make(config: ManagerConfig) -> Broken {
            Broken { manager: Manager::new(config), breach: Breach::$breach }
        }
        // One breach may break several rules, and which of them a seed shows first is chance.
        let mut first = None;
        let found = (0..20).any(|seed| {
            let said =
                run(&Scenario::new(Level::$level, seed), make).err().map(|it| it.to_string());
            let says_so = said.as_ref().is_some_and(|said| said.contains($says));
            first = first.take().or(said);
            says_so
        });
        let said = first.unwrap_or_else(|| panic!("{:?} was not found out", Breach::$breach));
        assert!(found, "{:?}\n  said   {said}\n  lacks  {}", Breach::$breach, $says);
    }};
}

#[test]
fn every_breach_is_found_out() {
    check!(ForgetsCompletions, Tight, "operations never completed");
    check!(CompletesTwice, Tight, "completed twice");
    check!(ForgetsReplies, Tight, "was answered by None");
    check!(RepliesTwice, Tight, "was answered by Some");
    check!(SwapsSources, Tight, "whole");
    check!(SwapsSlots, Tight, "wrongly");
    check!(HidesFailures, Faulty, "wrongly");
    check!(FreesPoolsTwice, Tight, "was freed twice");
    check!(NeverFreesPools, Tight, "pools not freed are left");
    check!(StartsTwice, Tight, "while it is being");
    check!(FindsTooMuch, Roomy, "blocks were found of");
    check!(IgnoresTime, Faulty, "leases outlive their time");
    check!(ForgetsFrames, Recovering, "was told to be durable");
    check!(RestampsTwice, Faulty, "two records are written at once");
    check!(RestampsWhatIsNot, Faulty, "held nothing when its record was written");
    check!(ServesLate, Tight, "after it was to be forgotten");
    check!(HidesChanges, Tight, "was told as served from");
    check!(TellsChangesTwice, Faulty, "was told as served from");
    check!(LeasesHoldNothing, Tight, "failed without a fault");
    check!(AwaitsNoEngine, Tight, "before its engine has come so far");
    check!(CallsAllDurable, Outages, "was told to be durable");
    check!(FlushesNothing, Outages, "was told to be durable");
    check!(IgnoresPromises, Fleet, "after another node's promise");
    check!(WritesNoRecords, Tight, "stopped on");
    check!(TellsOtherNames, Tight, "was told as served from");
    check!(AnswersOtherRequests, Tight, "does not answer");
    check!(FreesForOthers, Tight, "was freed for");
    check!(TakesWhatIsPresumed, Fleet, "blocks are known of");
    check!(LeavesFrames, Recovering, "a restart would find");
}

#[test]
fn a_violation_says_how_to_see_it_again() {
    fn make(config: ManagerConfig) -> Broken {
        Broken { manager: Manager::new(config), breach: Breach::CompletesTwice }
    }
    let said = run(&Scenario::new(Level::Tight, 3), make).unwrap_err().to_string();
    assert!(said.starts_with("tight seed 3, step "), "{said}");
    assert!(said.contains("SIM_LEVEL=tight SIM_SEED=3 cargo test --test sim one_seed"), "{said}");
}
