//! One run from its seed to its end: clients come and go, then everything must come to rest.

use std::time::Duration;

use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::manager::ManagerConfig;
use crate::manager::api::{ClientId, Event};
use crate::sim::actors::Actor;
use crate::sim::checker::Checker;
use crate::sim::machine::Checked;
use crate::sim::scenario::Scenario;

use super::core::{Core, Due};
use super::{RunReport, Stretch, Subject, Violation};

/// How often the manager hears that time passed.
const TICK: Duration = Duration::from_millis(100);

/// How long a node without clients may take to come to rest. A link may have to wait for the
/// watchdog many times over.
const REST_MAX: Duration = Duration::from_hours(1);

struct World<S> {
    core: Core<S>,
    actors: Vec<Actor>,
    wakes_left: u32,
    /// When the clients stopped asking, and what they had asked for should end.
    closing_since: Option<Time>,
    /// When the clients had gone, and everything should have ended.
    resting_since: Option<Time>,
    rested: bool,
}

/// Runs the scenario over what `make` makes.
///
/// # Errors
/// The first rule broken.
pub fn run<S: Subject>(
    scenario: &Scenario,
    make: fn(ManagerConfig) -> S,
) -> Result<RunReport, Violation> {
    let mut world = World {
        core: Core::new(scenario.clone(), make),
        actors: (0..scenario.clients).map(|_| Actor::default()).collect(),
        wakes_left: scenario.wakes,
        closing_since: None,
        resting_since: None,
        rested: false,
    };
    world.run().map_err(|what| Violation {
        level: scenario.level,
        seed: scenario.seed,
        step: world.core.steps,
        at: world.core.now,
        what,
    })?;
    let core = &world.core;
    Ok(RunReport {
        digest: core.digest(),
        steps: core.steps,
        transfers: core.transfers,
        restamps: core.restamps,
        loaded_blocks: core.checker.loaded_blocks,
        failed_blocks: core.checker.failed_blocks,
        crashes: core.crashes,
        outages: core.outages,
        clients: core.clients,
        found_frames: core.found_frames,
        shared_blocks: core.shared_blocks,
    })
}

impl<S: Subject> World<S> {
    fn run(&mut self) -> Checked {
        self.core.timeline.add(self.core.now, Due::Tick);
        for actor in 0..self.actors.len() {
            self.wake_later(actor);
        }
        while !self.rested {
            let (at, due) = self.core.timeline.pop_until(Time::MAX).expect("ticks never end");
            self.core.now = at;
            self.happen(due)?;
            self.deliver();
        }
        self.core.check_seldom()?;
        self.core.check_headers()?;
        self.core.check_frames()?;
        let status = self.core.status()?;
        Checker::check_rest(&status, &self.core.machine)
    }

    fn happen(&mut self, due: Due) -> Checked {
        match due {
            Due::Wake(actor) => self.wake(actor),
            Due::Land(transfer) => self.core.land(transfer),
            Due::EngineCame { op, came } => self.core.engine_came(op, came),
            Due::GiveUp(transfer) => self.core.give_up(transfer),
            Due::Erased { tier, place, key, why, done } => {
                let done = done && !self.core.refuses_writes_to(tier);
                self.core.machine.end_erase((tier, place), key, why, done);
                self.core.tell(Event::Erased { tier, place, key, done })
            }
            Due::Restamped { tier, place, key, new, end } => {
                self.core.restamped((tier, place), key, new, end)
            }
            Due::Found(frame) => self.core.tell(Event::Found { tier: Tier::Nvme, frame }),
            Due::ScanDone(tier) => self.core.tell(Event::ScanDone { tier }),
            Due::LookForStrays { begins } => self.core.tell(Event::LookForStrays { begins }),
            Due::Stray(stray) => self.core.tell_stray(stray),
            Due::LookedAt(key) => self.core.looked_at(key),
            Due::Shared { client, stretch } => self.answered(client, stretch),
            Due::Headers { keys, presumed } => self.core.follow_up(&keys, &presumed),
            Due::Tick => self.tick(),
        }
    }

    fn tick(&mut self) -> Checked {
        self.core.timeline.add(self.core.now + TICK, Due::Tick);
        if self.closing_since.is_none() && self.core.faults.crashes() {
            self.core.crash()?;
            for actor in 0..self.actors.len() {
                self.actors[actor] = Actor::default();
                self.wake_later(actor);
            }
            return Ok(());
        }
        self.core.change_outage(self.closing_since.is_none())?;
        self.core.other_nodes();
        self.core.tell(Event::Tick)?;
        if let Some(since) = self.closing_since {
            self.close(since)?;
        }
        if let Some(since) = self.resting_since {
            let waited = self.core.now.since(since);
            let config = &self.core.scenario.config;
            let due = waited > config.lease_ttl.max(config.store_timeout) + TICK;
            self.rested = (due && !self.core.moves()) || waited > REST_MAX;
        }
        Ok(())
    }

    fn wake(&mut self, index: usize) -> Checked {
        if self.wakes_left == 0 {
            self.closing_since.get_or_insert(self.core.now);
            return Ok(());
        }
        self.wakes_left -= 1;
        self.actors[index].wake(&mut self.core)?;
        self.wake_later(index);
        Ok(())
    }

    /// The shared store has answered: its client looks up what it came for, if it is still there.
    fn answered(&mut self, client: ClientId, stretch: Stretch) -> Checked {
        let end = stretch.end();
        self.core.tell_stretch(client, stretch)?;
        match self.actors.iter_mut().find(|actor| actor.is(client)) {
            Some(actor) => actor.answered(&mut self.core, end),
            None => Ok(()),
        }
    }

    fn wake_later(&mut self, actor: usize) {
        let after = Duration::from_micros(1_000 + u64::from(self.core.draw.below(60_000)));
        self.core.timeline.add(self.core.now + after, Due::Wake(actor));
    }

    /// Everybody goes, once all they asked for has ended.
    fn close(&mut self, since: Time) -> Checked {
        let (owed, waited) = (self.core.checker.owed(), self.core.now.since(since));
        let leases_run = waited <= self.core.scenario.config.lease_ttl + TICK;
        if self.resting_since.is_some() || leases_run || (owed > 0 && waited < REST_MAX) {
            return Ok(());
        }
        if owed > 0 {
            let one = self.core.checker.owed_one();
            return Err(format!("{owed} operations never completed, of them {one}"));
        }
        let leases = self.core.status()?.leases;
        if leases > 0 {
            return Err(format!("{leases} leases outlive their time"));
        }
        self.resting_since = Some(self.core.now);
        self.actors.iter_mut().try_for_each(|actor| actor.go(&mut self.core))?;
        if self.core.scenario.seed.is_multiple_of(2) { self.core.stop() } else { Ok(()) }
    }

    /// Hands completions to the clients they are for.
    fn deliver(&mut self) {
        while let Some((client, completion)) = self.core.told.pop() {
            let actor = self.actors.iter_mut().find(|actor| actor.is(client));
            if let Some(actor) = actor {
                actor.completed(&completion);
            }
        }
    }
}
