//! Repeatable choices: a small seeded generator, for simulations.

/// A deterministic source of choices (SplitMix64).
#[derive(Debug, Clone)]
pub struct SeededChoices {
    state: u64,
}

impl SeededChoices {
    /// Equal seeds make equal choices.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }

    /// True `part` times out of `whole`.
    pub fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }
}

/// How a power cut treats unsynced data.
#[derive(Debug, Clone, Copy)]
enum Style {
    Nothing,
    Everything,
    /// Keeps everything up to a moment, in order.
    Until(u64),
    /// Keeps each piece independently, `n` times out of 16.
    Each(u64),
}

/// Decides for each piece whether it survives a power cut, in a style that depends on the seed as well: simulations
/// meet the tidy cuts as often as the wild ones.
#[derive(Debug)]
pub(super) struct Survival {
    chooser: SeededChoices,
    style: Style,
}

impl Survival {
    pub(super) fn new(seed: u64) -> Self {
        let mut chooser = SeededChoices::new(seed);
        let style = match chooser.below(8) {
            0 => Style::Nothing,
            1 => Style::Everything,
            2..=4 => Style::Until(chooser.below(24)),
            _ => Style::Each(1 + chooser.below(15)),
        };
        Self { chooser, style }
    }

    pub(super) fn next(&mut self) -> bool {
        match &mut self.style {
            Style::Nothing => false,
            Style::Everything | Style::Until(1..) => {
                if let Style::Until(left) = &mut self.style {
                    *left -= 1;
                }
                true
            }
            Style::Until(0) => false,
            Style::Each(part) => self.chooser.chance(*part, 16),
        }
    }
}
