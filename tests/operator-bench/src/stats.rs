//! Orders of samples.

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

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[4.0, 1.0, 2.0, 3.0], 0.5), Some(2.5));
        let many: Vec<f64> = (1..=101).map(f64::from).collect();
        assert_eq!(quantile(&many, 0.99), Some(100.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
