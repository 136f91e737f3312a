//! The word that was probably meant.

/// The candidate fewest edits away from `word`, if it is near enough to be worth naming.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near_max = (word.chars().count() / 2).max(2);
    candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= near_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, counting characters; quadratic, so long words count as far.
fn edits(a: &str, b: &str) -> usize {
    const CHARS_MAX: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > CHARS_MAX || b.len() > CHARS_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_named_and_nonsense_is_not() {
        let keys = ["dram.capacity", "nvme.capacity", "socket"];
        let check = |word: &str, expected| assert_eq!(nearest(word, keys), expected, "{word}");
        check("dram.capcity", Some("dram.capacity"));
        check("nvme_capacity", Some("nvme.capacity"));
        check("sokcet", Some("socket"));
        check("qqqq", None);
        check(&"x".repeat(1000), None);
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3)] {
            assert_eq!(edits(a, b), expected);
            assert_eq!(edits(b, a), expected);
        }
    }
}
