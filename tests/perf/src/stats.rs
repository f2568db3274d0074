//! Orders of a handful of samples.

/// The samples of one figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    /// The middle one, the mean of the middle two when they are even in number.
    pub(crate) fn median(&self) -> Option<f64> {
        quantile(&self.0, 0.5)
    }

    pub(crate) fn min(&self) -> Option<f64> {
        self.0.iter().copied().reduce(f64::min)
    }

    pub(crate) fn max(&self) -> Option<f64> {
        self.0.iter().copied().reduce(f64::max)
    }
}

/// Linear between the two nearest ranks; `None` for no values.
pub(crate) fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of samples is far below 2^52"
    )]
    let rank = q.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= rank <= last"
    )]
    let below = rank.floor() as usize;
    let above = (below + 1).min(last);
    let part = rank - rank.floor();
    Some(sorted[below] + (sorted[above] - sorted[below]) * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples(values.to_vec())
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(samples(&[]).median(), None);
        assert_eq!(
            (samples(&[2.0, 9.0]).min(), samples(&[2.0, 9.0]).max()),
            (Some(2.0), Some(9.0))
        );
    }

    #[test]
    fn a_high_quantile_is_near_the_largest() {
        let values: Vec<f64> = (1..=101).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), Some(100.0));
        assert_eq!(quantile(&values, 2.0), Some(101.0));
    }
}
