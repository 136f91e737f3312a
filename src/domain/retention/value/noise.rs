//! How far announced times are off: a histogram of announced against true, on the scale of ages.
//!
//! What was announced is taken as evidence beside what is known of the class, so a bias is learned
//! away and an announcement that means nothing changes nothing.

use super::ages::BINS;
use super::survival::Hazards;

/// Bins by which the truth can lie beside the announcement, either way.
const OFFSETS: usize = 2 * BINS;

/// Spread evenly before anything was seen.
const GUESS_WEIGHT: f32 = 30.0;
const WEIGHT_MAX: f32 = 20_000.0;
const DECAY: f32 = 0.7;

/// How likely an announcement is for one that never returns, against one of known length: as good
/// as any other.
const NEVER: f32 = 0.01;

pub(super) struct Noise {
    seen: [f32; OFFSETS],
    total: f32,
}

impl Default for Noise {
    fn default() -> Self {
        Self { seen: [0.0; OFFSETS], total: 0.0 }
    }
}

const fn offset(truth: usize, announced: usize) -> usize {
    truth + BINS - announced
}

impl Noise {
    /// One announced for the bin `announced` returned in `truth`.
    pub fn learn(&mut self, truth: usize, announced: usize, weight: f32) {
        self.seen[offset(truth, announced)] += weight;
        self.total += weight;
        if self.total > WEIGHT_MAX {
            self.seen.iter_mut().for_each(|seen| *seen *= DECAY);
            self.total *= DECAY;
        }
    }

    /// How likely `announced` is, given the truth; neighbours count, since the scale is coarse.
    fn likelihood(&self, truth: usize, announced: usize) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "a hundred or so")]
        const EVENLY: f32 = GUESS_WEIGHT / OFFSETS as f32;
        let at = offset(truth, announced);
        let seen = |at: usize| self.seen.get(at).copied().unwrap_or(0.0);
        let near = 0.25 * (seen(at.wrapping_sub(1)) + seen(at + 1)) + 0.5 * seen(at);
        (near + EVENLY) / (self.total + GUESS_WEIGHT)
    }

    /// What to expect of one of a class with `hazards` that was announced for `announced`.
    pub fn told(&self, hazards: &Hazards, announced: usize) -> Hazards {
        let mut chance = [0.0; BINS];
        let mut left = 1.0;
        for (bin, hazard) in hazards.iter().enumerate() {
            chance[bin] = left * hazard * self.likelihood(bin, announced);
            left *= 1.0 - hazard;
        }
        let mut from_here = left * NEVER;
        for chance in chance.iter_mut().rev() {
            from_here += *chance;
            *chance = if from_here > 0.0 { *chance / from_here } else { 0.0 };
        }
        chance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bin in which most of those that are expected return.
    fn mode(hazards: &Hazards) -> usize {
        let mut left = 1.0;
        let chances = hazards.map(|hazard| {
            let chance = left * hazard;
            left *= 1.0 - hazard;
            chance
        });
        (0..BINS).max_by(|a, b| chances[*a].total_cmp(&chances[*b])).unwrap()
    }

    #[test]
    fn a_bias_is_learned_away() {
        let mut noise = Noise::default();
        (0..500).for_each(|i| noise.learn(10 + i % 20, 15 + i % 20, 1.0));
        assert_eq!(mode(&noise.told(&[0.1; BINS], 30)), 25);
    }

    #[test]
    fn announcements_that_mean_nothing_change_little() {
        let mut noise = Noise::default();
        (0..5200).for_each(|i| noise.learn(i % BINS, (i * 7 + i / BINS) % BINS, 1.0));
        let mut hazards = [0.01; BINS];
        hazards[12] = 0.8;
        for announced in [8, 20, 40] {
            assert_eq!(mode(&noise.told(&hazards, announced)), 12);
        }
    }
}
