//! "Did you mean …?"

/// The word among `known` that `word` was probably meant to be.
pub(crate) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the word may be wrong; more is a different word.
    let worst = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate, worst), candidate))
        .filter(|(distance, _)| *distance <= worst)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The number of insertions, deletions, replacements and swaps of neighbours that separate two
/// words, ignoring case; anything above `worst` when it is more than that.
fn distance(a: &str, b: &str, worst: usize) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    if a.len().abs_diff(b.len()) > worst {
        return worst + 1;
    }
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, cb) in b.iter().enumerate() {
            let replace = last[j] + usize::from(ca != cb);
            let mut best = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                best = best.min(before_last[j - 1] + 1);
            }
            row[j + 1] = best;
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["routes", "addressPools", "mtu", "localSID", "localSIDIPv4"];
        assert_eq!(closest("adressPools", known), Some("addressPools"));
        assert_eq!(closest("localsid", known), Some("localSID"));
        assert_eq!(closest("mut", known), Some("mtu"));
        assert_eq!(closest("rotues", known), Some("routes"));
        assert_eq!(closest("replicas", known), None);
        assert_eq!(closest("", known), None);
    }
}
