//! The known key that somebody probably meant.

/// Edit distance that counts an insertion, a deletion, a replacement and a swap of neighbours as one each (optimal string
/// alignment: Boytsov 2011, "Indexing methods for approximate dictionary searching", section 2.2).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut best = (last[j] + usize::from(a[i] != b[j])).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// How far `known` is from what was typed; `None` when it is not worth proposing. A slip of the finger comes first, then the
/// same name in another section, then a name of the same section that holds what was typed.
fn score(typed: &str, known: &str) -> Option<usize> {
    let ((section, name), (known_section, known_name)) = (split(typed), split(known));
    let joined = |path: &str| path.replace(['.', '_'], "");
    // A variable's name writes a dot as two underscores, so that one wrong underscore moves the dots.
    let edits = distance(typed, known).min(distance(&joined(typed), &joined(known)).max(1));
    if typed == known {
        return Some(0);
    }
    if edits <= 1 + name.chars().count() / 4 {
        return Some(edits);
    }
    if name == known_name {
        return Some(100 + distance(section, known_section));
    }
    let holds = name.len() >= 3 && known_name.len() >= 3 && (known_name.contains(name) || name.contains(known_name));
    (section == known_section && holds).then_some(1000 + edits)
}

/// The key of `known` nearest to `typed`, if any is near enough to be proposed. Ties go to the first in order.
pub(crate) fn nearest<S: AsRef<str>>(typed: &str, known: impl IntoIterator<Item = S>) -> Option<String> {
    // Names are long only by mistake; the distance grows with the square of the length.
    if typed.len() > 200 {
        return None;
    }
    let typed = typed.to_lowercase().replace('-', "_");
    let scored = known.into_iter().filter_map(|k| score(&typed, k.as_ref()).map(|s| (s, k)));
    scored.min_by(|a, b| (a.0, a.1.as_ref()).cmp(&(b.0, b.1.as_ref()))).map(|(_, k)| k.as_ref().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 5] = ["http.listen", "http.idle_timeout", "node.region", "admin.listen", "peer.listen"];

    #[test]
    fn a_swap_of_neighbours_is_one_edit() {
        assert_eq!(distance("lisetn", "listen"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn the_nearest_key_is_the_one_meant() {
        assert_eq!(nearest("http.lisen", KNOWN).as_deref(), Some("http.listen"));
        assert_eq!(nearest("HTTP.Idle-Timeout", KNOWN).as_deref(), Some("http.idle_timeout"));
        assert_eq!(nearest("http.region", KNOWN).as_deref(), Some("node.region"));
        assert_eq!(nearest("http.timeout", KNOWN).as_deref(), Some("http.idle_timeout"));
        assert_eq!(nearest("http.idle.imeout", KNOWN).as_deref(), Some("http.idle_timeout"));
        assert_eq!(nearest("http.colour", KNOWN), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), KNOWN), None);
    }
}
