//! Short turns of several contestants, one after the other, again and again, so that the machine's moods hit all.

/// The middle one of some values; 0 without any.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which `part` (0 to 1) of all lie; 0 without any.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// What each contestant reached in each round.
#[derive(Debug, Default)]
pub struct RoundRates {
    /// One row per round, one value per contestant.
    rows: Vec<Vec<f64>>,
}

impl RoundRates {
    /// Notes a round.
    pub fn add(&mut self, row: Vec<f64>) {
        self.rows.push(row);
    }

    /// Median of a contestant.
    pub fn median(&self, contestant: usize) -> f64 {
        median(&self.column(contestant))
    }

    /// Median over the rounds of the ratio between two contestants in the same round.
    pub fn ratio(&self, contestant: usize, against: usize) -> f64 {
        let ratios: Vec<f64> = self.rows.iter().map(|row| row[contestant] / row[against]).collect();
        median(&ratios)
    }

    fn column(&self, contestant: usize) -> Vec<f64> {
        self.rows.iter().map(|row| row[contestant]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_shrug_off_a_bad_round() {
        let mut rounds = RoundRates::default();
        for row in [[2.0, 1.0], [20.0, 10.0], [6.0, 3.0], [9.0, 1.0], [4.0, 2.0]] {
            rounds.add(row.to_vec());
        }
        assert_eq!((rounds.median(0), rounds.median(1)), (6.0, 2.0));
        assert_eq!(rounds.ratio(0, 1), 2.0);
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 1.0), 3.0);
        assert_eq!(median(&[]), 0.0);
    }
}
