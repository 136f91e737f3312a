//! How long tips wait for their return, learned online: of those that reached an age, how many
//! returned at it.
//!
//! A class that has seen little is drawn to the class it belongs to, and the most general one to a
//! guess that is pessimistic and the same on the whole scale.

use super::ages::BINS;
use super::index::{Level, best_rate};

/// The chance of a return within each bin of those that reached it.
pub type Hazards = [f32; BINS];

/// A class, from the most general table to its own.
pub type Path = [u16; DEPTH];
pub(super) const DEPTH: usize = 4;

/// The chance of a return within a bin before anything was seen.
const HAZARD_GUESS: f32 = 0.005;

/// A table counts as much as the one above it when it has seen so much weight.
const SHRINKAGE: f32 = 400.0;

/// What was seen counts a little less each time so many more returns have been.
const DECAY_EVERY: u32 = 8192;
const DECAY: f32 = 0.7;

/// Levels are worked out anew each time so many returns have been seen.
const REFRESH_EVERY: u32 = 64;

#[derive(Clone)]
struct Table {
    returned: [f32; BINS],
    reached: [f32; BINS],
}

/// What follows from the tables for one class, as of some refresh.
#[derive(Clone)]
struct Curve {
    epoch: u32,
    hazards: Hazards,
    levels: [Level; BINS],
}

/// The tables of one kind of waiting.
pub struct Survival {
    depths: [Vec<Table>; DEPTH],
    curves: Vec<Option<Box<Curve>>>,
    returns: u32,
}

impl Survival {
    /// `classes`: how many there are at each depth.
    #[must_use]
    pub fn new(classes: [u16; DEPTH]) -> Self {
        let empty = Table { returned: [0.0; BINS], reached: [0.0; BINS] };
        let leaves = classes[DEPTH - 1].into();
        Self {
            depths: classes.map(|count| vec![empty.clone(); count.into()]),
            curves: vec![None; leaves],
            returns: 0,
        }
    }

    fn tables(&mut self, path: Path) -> impl Iterator<Item = &mut Table> {
        self.depths.iter_mut().zip(path).map(|(tables, class)| &mut tables[usize::from(class)])
    }

    /// One that counts `weight` passed the bins `from..to` without a return.
    pub fn passed(&mut self, path: Path, from: usize, to: usize, weight: f32) {
        for table in self.tables(path) {
            table.reached[from..to].iter_mut().for_each(|reached| *reached += weight);
        }
    }

    /// One that counts `weight` returned in `bin`.
    pub fn returned(&mut self, path: Path, bin: usize, weight: f32) {
        for table in self.tables(path) {
            table.reached[bin] += weight;
            table.returned[bin] += weight;
        }
        self.returns = self.returns.wrapping_add(1);
        if self.returns.is_multiple_of(DECAY_EVERY) {
            for table in self.depths.iter_mut().flatten() {
                let counts = table.reached.iter_mut().chain(&mut table.returned);
                counts.for_each(|count| *count *= DECAY);
            }
        }
    }

    /// What the tables say of a class now.
    #[must_use]
    pub fn hazards(&self, path: Path) -> Hazards {
        let mut hazards = [HAZARD_GUESS; BINS];
        for (tables, class) in self.depths.iter().zip(path) {
            let Table { returned, reached } = &tables[usize::from(class)];
            for (hazard, (returned, reached)) in
                hazards.iter_mut().zip(returned.iter().zip(reached))
            {
                *hazard = (returned + SHRINKAGE * *hazard) / (reached + SHRINKAGE);
            }
        }
        hazards
    }

    /// The chance of a return at all of one of the class that has reached the bin.
    #[must_use]
    pub fn chance(&self, path: Path, bin: usize) -> f32 {
        let missed: f32 = self.hazards(path)[bin..].iter().map(|hazard| 1.0 - hazard).product();
        1.0 - missed
    }

    /// Whether enough reached the bin, of whatever class, for the guess to have lost its say.
    #[must_use]
    pub fn has_seen(&self, path: Path, bin: usize) -> bool {
        self.depths[0][usize::from(path[0])].reached[bin] >= SHRINKAGE
    }

    fn curve(&mut self, path: Path) -> &Curve {
        let class = usize::from(path[DEPTH - 1]);
        let epoch = self.returns / REFRESH_EVERY;
        if self.curves[class].as_ref().is_none_or(|curve| curve.epoch != epoch) {
            let hazards = self.hazards(path);
            let levels = std::array::from_fn(|bin| Level::of_rate(best_rate(&hazards, bin)));
            self.curves[class] = Some(Box::new(Curve { epoch, hazards, levels }));
        }
        self.curves[class].as_ref().expect("made above")
    }

    /// The level of one of the class in `bin`, as of the last refresh.
    pub fn level(&mut self, path: Path, bin: usize) -> Level {
        self.curve(path).levels[bin]
    }

    /// The class's hazards as of the last refresh.
    pub fn recent_hazards(&mut self, path: Path) -> &Hazards {
        &self.curve(path).hazards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: Path = [0, 1, 1, 1];
    const OTHER: Path = [0, 0, 0, 0];

    fn survival() -> Survival {
        Survival::new([1, 2, 2, 2])
    }

    /// Of every ten, six return in bin 8, two in bin 20 and two never.
    fn teach(survival: &mut Survival, rounds: u32) {
        for _ in 0..rounds {
            for at in [8, 8, 8, 8, 8, 8, 20, 20] {
                survival.passed(CLASS, 0, at, 1.0);
                survival.returned(CLASS, at, 1.0);
            }
            (0..2).for_each(|_| survival.passed(CLASS, 0, BINS, 1.0));
        }
    }

    #[test]
    fn a_known_distribution_is_learned() {
        let mut survival = survival();
        teach(&mut survival, 2000);
        let hazards = survival.hazards(CLASS);
        for (bin, expected) in [(8, 0.6), (20, 0.5), (3, 0.0), (30, 0.0)] {
            assert!((hazards[bin] - expected).abs() < 0.02, "bin {bin}: {}", hazards[bin]);
        }
    }

    #[test]
    fn who_has_waited_longer_than_most_returns_less_often() {
        let mut survival = survival();
        assert!(!survival.has_seen(CLASS, 0));
        teach(&mut survival, 2000);
        assert!(survival.has_seen(OTHER, 20));
        for (bin, expected) in [(0, 0.8), (9, 0.5), (21, 0.0)] {
            let chance = survival.chance(CLASS, bin);
            assert!((chance - expected).abs() < 0.05, "bin {bin}: {chance}");
        }
    }

    #[test]
    fn a_class_of_which_nothing_is_known_is_taken_for_the_usual_one() {
        let mut survival = survival();
        let guess = survival.hazards(OTHER);
        assert!(guess.iter().all(|hazard| (hazard - HAZARD_GUESS).abs() < 1e-6));
        teach(&mut survival, 2000);
        assert!((survival.hazards(OTHER)[8] - 0.6).abs() < 0.02);
        assert!(survival.level(OTHER, 0) > Level::of_rate(HAZARD_GUESS));
    }

    #[test]
    fn what_was_learned_long_ago_gives_way() {
        let mut survival = survival();
        teach(&mut survival, 2000);
        for _ in 0..60_000 {
            survival.passed(CLASS, 0, 4, 1.0);
            survival.returned(CLASS, 4, 1.0);
        }
        let hazards = survival.hazards(CLASS);
        assert!(hazards[4] > 0.9, "{}", hazards[4]);
    }
}
