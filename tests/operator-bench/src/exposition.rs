//! Metrics in the text form of Prometheus.

use std::collections::BTreeMap;

/// Some series of one scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exposition(Vec<Series>);

#[derive(Clone, Debug)]
struct Series {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Series {
    fn label(&self, key: &str) -> &str {
        let found = self.labels.iter().find(|(name, _)| name == key);
        found.map_or("", |(_, value)| value)
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(key, value)| self.label(key) == *value)
    }
}

impl Exposition {
    /// Reads the series whose name begins with one of `prefixes`. A line that is none is left out.
    pub(crate) fn parse(text: &str, prefixes: &[&str]) -> Self {
        let wanted = |line: &&str| prefixes.iter().any(|prefix| line.starts_with(prefix));
        Self(text.lines().filter(wanted).filter_map(series).collect())
    }

    /// The sum of the series of a metric that have these labels.
    pub(crate) fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.0.iter().filter(|one| one.name == metric);
        series
            .filter(|one| one.has(labels))
            .fold(0.0, |sum, one| sum + one.value)
    }

    /// Sums by the labels `keys`, joined with `/`, of the series with any of `values` under `of`.
    pub(crate) fn sums_by(
        &self,
        metric: &str,
        (of, values): (&str, &[&str]),
        keys: &[&str],
    ) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for one in self.0.iter().filter(|one| one.name == metric) {
            if values.contains(&one.label(of)) {
                let parts = keys.iter().map(|key| one.label(key));
                let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
                *sums.entry(parts.join("/")).or_default() += one.value;
            }
        }
        sums
    }

    /// A quantile of what a histogram saw since `before`, linear inside a bucket as in PromQL;
    /// `None` when it saw nothing. In the last bucket, its lower bound.
    pub(crate) fn quantile(&self, before: &Self, metric: &str, q: f64) -> Option<f64> {
        let name = format!("{metric}_bucket");
        let mut buckets: Vec<(f64, f64)> = self
            .0
            .iter()
            .filter(|one| one.name == name)
            .filter_map(|one| {
                let le = one.label("le");
                let bound = if le == "+Inf" {
                    f64::INFINITY
                } else {
                    le.parse().ok()?
                };
                Some((bound, one.value - before.sum(&name, &[("le", le)])))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rank = buckets.last()?.1 * q;
        if rank <= 0.0 {
            return None;
        }
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= rank {
                if bound.is_infinite() {
                    return Some(low);
                }
                return Some(low + (bound - low) * (rank - below) / (count - below));
            }
            (low, below) = (bound, count);
        }
        None
    }
}

/// `name{key="value",…} number`, with an optional time behind it.
fn series(line: &str) -> Option<Series> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((key.trim_start_matches(',').trim().to_owned(), value));
            rest = after.trim_start_matches(',');
        }
        rest = &rest[1..];
    }
    Some(Series {
        name: name.to_owned(),
        labels,
        value: rest.split_whitespace().next()?.parse().ok()?,
    })
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP writes_total Writes.\n\
        writes_total{kind=\"A\",outcome=\"written\"} 7\n\
        writes_total{kind=\"B\",outcome=\"written\"} 2 1700000000\n\
        writes_total{kind=\"B\",outcome=\"quo\\\"ted, {x}\"} 1\n\
        up 1\n\
        broken{ 3\n\
        t_bucket{le=\"0.1\"} 50\nt_bucket{le=\"1\"} 90\nt_bucket{le=\"+Inf\"} 100\n";

    fn read(text: &str) -> Exposition {
        Exposition::parse(text, &["writes", "up", "t_", "broken"])
    }

    #[test]
    fn series_are_summed_by_their_labels() {
        let metrics = read(TEXT);
        assert_eq!(metrics.sum("writes_total", &[]), 10.0);
        assert_eq!(metrics.sum("writes_total", &[("kind", "B")]), 3.0);
        let labels = [("kind", "B"), ("outcome", "quo\"ted, {x}")];
        assert_eq!(metrics.sum("writes_total", &labels), 1.0);
        assert_eq!(metrics.sum("up", &[]), 1.0);
        let by = metrics.sums_by("writes_total", ("outcome", &["written"]), &["kind", "none"]);
        assert_eq!(by, [("A".to_owned(), 7.0), ("B".to_owned(), 2.0)].into());
    }

    #[test]
    fn quantiles_are_of_what_came_since() {
        let before = "t_bucket{le=\"0.1\"} 50\nt_bucket{le=\"1\"} 50\nt_bucket{le=\"+Inf\"} 50\n";
        let before = read(before);
        let now = read(TEXT);
        assert_eq!(now.quantile(&before, "t", 0.4), Some(0.55));
        // Beyond the last bound nothing more is known.
        assert_eq!(now.quantile(&Exposition::default(), "t", 0.99), Some(1.0));
        assert_eq!(now.quantile(&now, "t", 0.5), None);
    }
}
