//! The manager and its machine: performs effects, and checks after every step.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::retention::NewRecord;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::manager::api::{
    ClientId, Command, Completion, Effect, End, Event, FailureKind, ItemFailure, OpId, PoolId,
    Reply, ReplyTag, RestampEnd, Status, Transfer, TransferId,
};
use crate::manager::{ManagerConfig, Stray};
use crate::sim::checker::Checker;
use crate::sim::digest::Digest;
use crate::sim::faults::{Faults, Outage, Plan, WATCHDOG};
use crate::sim::machine::{Checked, Fate, Machine};
use crate::sim::residency::Residency;
use crate::sim::scenario::Scenario;
use crate::sim::timeline::Timeline;
use crate::tiers::health::Refuses;
use crate::tiers::store::{Erasure, FoundFrame, Place};
use crate::workload::draw::Draw;

use super::{Stretch, Subject};

/// What happens later.
pub(in crate::sim) enum Due {
    /// A client does its next thing.
    Wake(usize),
    /// A transfer's copies happen; the manager hears of it unless that is lost.
    Land(TransferId),
    /// An engine has come as far as a call, or nobody can tell.
    EngineCame {
        op: OpId,
        came: bool,
    },
    /// The watchdog gives a transfer up.
    GiveUp(TransferId),
    Erased {
        tier: Tier,
        place: Option<Place>,
        key: Key,
        why: Erasure,
        done: bool,
    },
    Restamped {
        tier: Tier,
        place: Option<Place>,
        key: Key,
        new: NewRecord,
        end: RestampEnd,
    },
    Tick,
    Found(Box<FoundFrame>),
    ScanDone(Tier),
    LookForStrays {
        begins: bool,
    },
    Stray(Box<Stray>),
    /// The header of one that was due was read.
    LookedAt(Key),
    /// The shared store has answered a client.
    Shared {
        client: ClientId,
        stretch: Stretch,
    },
    /// The headers of blocks that it was presumed to have are read.
    Headers {
        keys: Vec<Key>,
        presumed: Vec<usize>,
    },
}

/// How long a scan takes after the power came back.
pub(super) const SCAN: Duration = Duration::from_millis(200);

/// Changes that were not told stay wrong, and so does what lists have lost: neither need be looked for
/// after every step.
const RARELY: u64 = 64;

struct Flight {
    transfer: Transfer,
    plan: Plan,
}

/// Everything but the clients.
pub(in crate::sim) struct Core<S> {
    pub(in crate::sim) scenario: Scenario,
    pub(super) subject: S,
    make: fn(ManagerConfig) -> S,
    pub(in crate::sim) now: Time,
    pub(in crate::sim) timeline: Timeline<Due>,
    pub(in crate::sim) machine: Machine,
    pub(in crate::sim) checker: Checker,
    pub(in crate::sim) faults: Faults,
    /// For what clients choose; faults draw from their own, so that they don't change the work.
    pub(in crate::sim) draw: Draw,
    flights: BTreeMap<TransferId, Flight>,
    /// Completions that no client has taken yet.
    pub(in crate::sim) told: Vec<(ClientId, Completion)>,
    told_residency: Residency,
    effects: Vec<Effect>,
    digest: Digest,
    tags: u64,
    pub(super) steps: u64,
    pub(super) transfers: u64,
    pub(super) restamps: u64,
    pub(super) crashes: u64,
    /// The tier that is out, and until when.
    out: Option<(Outage, Time)>,
    pub(super) outages: u64,
    pub(super) found_frames: u64,
    pub(in crate::sim) shared_blocks: u64,
    /// The manager was told that the daemon stops.
    pub(super) stopped: bool,
    /// Operations under way, and the slots that their engines may be behind with.
    pub(in crate::sim) engines: BTreeMap<OpId, (PoolId, Vec<u32>)>,
    pub(in crate::sim) clients: u64,
}

impl<S: Subject> Core<S> {
    pub(super) fn new(scenario: Scenario, make: fn(ManagerConfig) -> S) -> Self {
        let seed = scenario.seed;
        Self {
            subject: make(scenario.config.clone()),
            make,
            now: Time::from_millis(1_000),
            timeline: Timeline::default(),
            machine: Machine::default(),
            checker: Checker::new(!scenario.is_faultless),
            faults: Faults::new(scenario.faults, !seed),
            draw: Draw::new(seed),
            flights: BTreeMap::new(),
            told: Vec::new(),
            told_residency: Residency::default(),
            effects: Vec::new(),
            digest: Digest::default(),
            tags: 0,
            steps: 0,
            transfers: 0,
            restamps: 0,
            crashes: 0,
            out: None,
            outages: 0,
            found_frames: 0,
            shared_blocks: 0,
            stopped: false,
            engines: BTreeMap::new(),
            clients: 0,
            scenario,
        }
    }

    pub(super) fn digest(&self) -> String {
        self.digest.hex()
    }

    /// Whether anything is copied or erased.
    pub(super) fn moves(&self) -> bool {
        !self.flights.is_empty() || !self.machine.is_quiet()
    }

    /// Asks the manager; exactly one reply must come, in the same step.
    pub(in crate::sim) fn ask(&mut self, client: ClientId, command: Command) -> Checked<Reply> {
        self.tags += 1;
        let tag = ReplyTag(self.tags);
        let mut replies = self.step(Event::Command { tag, client, command })?;
        match (replies.pop(), replies.is_empty()) {
            (Some((answered, reply)), true) if answered == tag => Ok(reply),
            (reply, _) => Err(format!("{tag:?} was answered by {reply:?} and {replies:?}")),
        }
    }

    /// Tells the manager something that has no answer.
    pub(in crate::sim) fn tell(&mut self, event: Event) -> Checked {
        let replies = self.step(event)?;
        if replies.is_empty() { Ok(()) } else { Err(format!("{replies:?} answer no command")) }
    }

    pub(super) fn status(&mut self) -> Checked<Box<Status>> {
        match self.ask(ClientId(0), Command::Status)? {
            Reply::Status(status) => Ok(status),
            other => Err(format!("the answer to Status was {other:?}")),
        }
    }

    fn step(&mut self, event: Event) -> Checked<Vec<(ReplyTag, Reply)>> {
        self.steps += 1;
        self.digest.add(&(self.now, &event));
        let mut effects = std::mem::take(&mut self.effects);
        self.subject.step(self.now, event, &mut effects);
        let mut replies = Vec::new();
        for effect in effects.drain(..) {
            self.digest.add(&effect);
            if let Effect::Reply { tag, reply } = effect {
                replies.push((tag, reply));
            } else {
                self.perform(effect)?;
            }
        }
        self.effects = effects;
        self.subject.check()?;
        if self.steps.is_multiple_of(RARELY) {
            self.check_seldom()?;
        }
        Ok(replies)
    }

    /// What was told of residency must add up to what is served, and lists must have what is theirs.
    pub(super) fn check_seldom(&mut self) -> Checked {
        self.told_residency.check(&self.subject.residents())?;
        self.subject.check_lists()
    }

    fn perform(&mut self, effect: Effect) -> Checked {
        match effect {
            Effect::Reply { .. } => unreachable!("the caller keeps replies"),
            Effect::Complete { client, completion } => {
                if let Some((pool, slots)) = self.engines.remove(&completion.op) {
                    self.machine.engine_rests(pool, &slots)?;
                }
                if self.checker.hear(client, &completion, self.now, &self.machine)? {
                    self.told.push((client, completion));
                }
                Ok(())
            }
            Effect::AwaitEngine { op, .. } => {
                if let Some((after, came)) = self.faults.engine_comes() {
                    self.timeline.add(self.now + after, Due::EngineCame { op, came });
                }
                Ok(())
            }
            Effect::Start(transfer) => self.start(transfer),
            Effect::Erase { tier, place, key, why } => {
                self.machine.begin_erase(tier, place, key)?;
                let done = self.faults.erase_succeeds();
                let after = Duration::from_micros(u64::from(self.faults.any() % 30_000));
                let due = Due::Erased { tier, place, key, why, done };
                self.timeline.add(self.now + after, due);
                Ok(())
            }
            Effect::Restamp { tier, place, key, record, known } => {
                self.restamps += 1;
                if tier == Tier::Object && !self.checker.knows_header(key) {
                    return Err(format!(
                        "the record of {key} is written where nobody read its header"
                    ));
                }
                self.machine.begin_restamp(tier, place, key, record)?;
                let end = self.faults.restamp();
                let after = Duration::from_micros(u64::from(self.faults.any() % 30_000));
                let new = NewRecord::of_change(record, known);
                let due = Due::Restamped { tier, place, key, new, end };
                self.timeline.add(self.now + after, due);
                Ok(())
            }
            Effect::LookAgain { key } => {
                let after = self.answers_after();
                self.timeline.add(self.now + after, Due::LookedAt(key));
                Ok(())
            }
            Effect::Residency { changes, .. } => self.told_residency.hear(&changes),
            Effect::PoolFreed { client, pool } => self.machine.free_pool(client, pool),
        }
    }

    fn start(&mut self, transfer: Transfer) -> Checked {
        self.transfers += 1;
        let (id, plan) = (transfer.id, self.faults.plan(&transfer));
        self.machine.begin(&transfer, &plan.fates)?;
        for item in transfer.items.iter().filter(|item| matches!(item.to, End::Pool { .. })) {
            let meta = item.meta;
            if meta.record.is_due(self.now) {
                return Err(format!("{meta:?} is served after it was to be forgotten"));
            }
            if self.checker.is_to_be_forgotten(meta.key, self.now) {
                return Err(format!("{meta:?} is served after another node's promise"));
            }
        }
        self.timeline.add(self.now + plan.lands_after, Due::Land(id));
        if plan.lost {
            self.timeline.add(self.now + WATCHDOG, Due::GiveUp(id));
        }
        match self.flights.insert(id, Flight { transfer, plan }) {
            None => Ok(()),
            Some(_) => Err(format!("{id:?} was started twice")),
        }
    }

    pub(super) fn restamped(
        &mut self,
        (tier, place): (Tier, Option<Place>),
        key: Key,
        new: NewRecord,
        end: RestampEnd,
    ) -> Checked {
        let end = if self.refuses_writes_to(tier) { RestampEnd::Failed } else { end };
        let end = self.machine.end_restamp((tier, place), key, new, end)?;
        if let RestampEnd::Outdone(_) = end
            && let Some(header) = self.machine.peek(key)
        {
            self.checker.hear_header(&header.meta);
        }
        self.tell(Event::Restamped { tier, key, end })
    }

    pub(super) fn land(&mut self, id: TransferId) -> Checked {
        let flight = self.flights.get(&id).expect("what lands was started");
        let out = self.out.as_ref().map(|(outage, _)| outage);
        let fates = flight.transfer.items.iter().zip(&flight.plan.fates).map(|(item, fate)| {
            let refusal = out.and_then(|outage| outage.refusal(item)).map(Fate::Fails);
            refusal.filter(|_| *fate == Fate::Lands).unwrap_or(*fate)
        });
        let fates: Vec<_> = fates.collect();
        let (transfer, lost) = (flight.transfer.clone(), flight.plan.lost);
        let failed = self.machine.land(&transfer, &fates)?;
        self.tell_fetched(&transfer, &failed)?;
        if lost { Ok(()) } else { self.end(id, failed) }
    }

    /// The engine has come as far as a call, or nobody can tell.
    pub(super) fn engine_came(&mut self, op: OpId, came: bool) -> Checked {
        if came && let Some((pool, slots)) = self.engines.get(&op) {
            self.machine.engine_came(*pool, slots)?;
        }
        self.tell(Event::EngineCame { op, came })
    }

    pub(super) fn give_up(&mut self, id: TransferId) -> Checked {
        let items = self.flights.get(&id).map_or(0, |flight| flight.transfer.items.len());
        let items = u32::try_from(items).expect("transfers are bounded");
        let not_done = |item| ItemFailure { item, kind: FailureKind::NotDone };
        self.end(id, (0..items).map(not_done).collect())
    }

    fn end(&mut self, id: TransferId, failed: Vec<ItemFailure>) -> Checked {
        let flight = self.flights.remove(&id).expect("a transfer ends once");
        self.machine.end(&flight.transfer);
        self.tell(Event::TransferDone { transfer: id, failed })
    }

    /// A cold tier goes out now and then, and comes back.
    pub(super) fn change_outage(&mut self, may_begin: bool) -> Checked {
        match self.out {
            Some((Outage { tier, .. }, until)) if self.now >= until => {
                self.out = None;
                self.tell_outage(tier, Refuses::NOTHING)
            }
            None if may_begin => {
                let Some(outage) = self.faults.outage() else { return Ok(()) };
                if self.scenario.config.tiers[outage.tier.index()].is_none() {
                    return Ok(());
                }
                self.outages += 1;
                self.out = Some((outage, self.now + outage.lasts));
                self.tell_outage(outage.tier, outage.refuses)
            }
            _ => Ok(()),
        }
    }

    fn tell_outage(&mut self, tier: Tier, refuses: Refuses) -> Checked {
        self.checker.outage_changes += 1;
        self.tell(Event::Outage { tier, refuses })
    }

    /// Whether any tier is out.
    pub(in crate::sim) fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// Whether what the tier holds can be read.
    pub(in crate::sim) fn is_read(&self, tier: Tier) -> bool {
        !self.out.is_some_and(|(outage, _)| outage.tier == tier && outage.refuses.reads)
    }

    pub(super) fn refuses_writes_to(&self, tier: Tier) -> bool {
        self.out.is_some_and(|(outage, _)| outage.refuses_writes_to(tier))
    }

    /// The node loses power and starts again, with what `NVMe` kept.
    pub(super) fn crash(&mut self) -> Checked {
        self.crashes += 1;
        let faults = &mut self.faults;
        let may_tear = !self.scenario.keeps_everything;
        let mut found = self.machine.crash(may_tear, || faults.any());
        self.checker.crashed(&found, self.now + SCAN, &self.machine)?;
        self.timeline = Timeline::default();
        self.flights.clear();
        self.engines.clear();
        // Whoever looks at the store next finds it well.
        self.out = None;
        self.checker.outage_changes += 1;
        self.told.clear();
        self.told_residency = Residency::default();
        let mut config = self.scenario.config.clone();
        let scans = config.tiers[Tier::Nvme.index()].is_some();
        if let Some(nvme) = &mut config.tiers[Tier::Nvme.index()] {
            nvme.recovers = true;
        }
        self.subject = (self.make)(config);
        self.found_frames += found.len() as u64;
        // A scan reports in no order.
        while !found.is_empty() {
            let at = self.faults.any() as usize % found.len();
            let frame = Box::new(found.swap_remove(at));
            let after = SCAN / 100 * (self.faults.any() % 100);
            self.timeline.add(self.now + after, Due::Found(frame));
        }
        if scans {
            self.timeline.add(self.now + SCAN, Due::ScanDone(Tier::Nvme));
        }
        self.find_strays();
        self.timeline.add(self.now, Due::Tick);
        Ok(())
    }
}
