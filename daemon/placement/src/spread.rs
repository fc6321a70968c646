//! Spread (P2): how many of a group's replicas each part of it takes: of all regions, each region; of a region, each zone.
//!
//! Counts are as equal as the parts' sizes allow. With `count` replicas there is a *level* that every part reaches (or all of its nodes, where
//! it has fewer); what is left over, the *extra*, goes one each to the best-ranked parts that have a node more than the level. With three
//! replicas over five regions the level is 0 and the extra 3: three regions, one each.

/// The level that all parts reach, and how many parts take one more; `nodes` are the parts' sizes.
pub(crate) fn level(count: usize, nodes: &(impl Iterator<Item = usize> + Clone)) -> (usize, usize) {
    let filled = |level: usize| nodes.clone().map(|nodes| nodes.min(level)).sum::<usize>();
    let mut level = 0;
    while level < count && filled(level + 1) <= count {
        level += 1;
    }
    let rest = count - filled(level);
    (level, if filled(level + 1) > filled(level) { rest } else { 0 })
}

/// A part of a group, as its turn is decided for one slot. `best` orders the parts, the greatest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<B> {
    /// How many nodes it has.
    pub(crate) nodes: usize,
    /// How many of those are below their load cap.
    pub(crate) open: usize,
    /// The best draw in it.
    pub(crate) best: B,
}

/// How many of `count` replicas each part takes: (part, replicas) in the order of rank, those with none left out. Parts that can take the extra one
/// without going over a load cap go first.
pub(crate) fn allot<B: Ord + Copy>(count: usize, parts: &[Part<B>]) -> Vec<(usize, usize)> {
    let (level, extra) = level(count, &parts.iter().map(|part| part.nodes));
    let mut counts: Vec<(usize, usize)> = parts.iter().map(|part| part.nodes.min(level)).enumerate().collect();
    counts.sort_unstable_by_key(|&(part, _)| std::cmp::Reverse((parts[part].open > level, parts[part].best)));
    for (_, count) in counts.iter_mut().filter(|(part, _)| parts[*part].nodes > level).take(extra) {
        *count += 1;
    }
    counts.retain(|&(_, count)| count > 0);
    counts.sort_by_key(|&(part, _)| std::cmp::Reverse(parts[part].best));
    counts
}

/// Whether `counts` of the parts' `nodes` are spread as equally as can be.
pub(crate) fn is_spread(counts: &[usize], nodes: &[usize]) -> bool {
    let (level, _) = level(counts.iter().sum(), &nodes.iter().copied());
    counts.iter().zip(nodes).all(|(&count, &nodes)| count == nodes.min(level) || count == nodes.min(level + 1))
}

/// The lists' first items, then their second ones, and so on.
pub(crate) fn interleave<T: Copy>(lists: &[Vec<T>]) -> Vec<T> {
    let rounds = lists.iter().map(Vec::len).max().unwrap_or(0);
    (0..rounds).flat_map(|round| lists.iter().filter_map(move |list| list.get(round).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(count: usize, nodes: &[usize]) -> (usize, usize) {
        level(count, &nodes.iter().copied())
    }

    #[test]
    fn p2_replicas_fall_in_distinct_parts_while_there_are_enough() {
        assert_eq!(levels(3, &[9, 9, 9, 9, 9]), (0, 3));
        assert_eq!(levels(3, &[9, 9, 9]), (1, 0));
        assert_eq!(levels(5, &[9, 9, 9]), (1, 2));
        assert_eq!(levels(5, &[1, 9, 9]), (2, 0));
        assert_eq!(levels(7, &[1, 1]), (7, 0));
        assert_eq!(levels(0, &[]), (0, 0));
    }

    #[test]
    fn the_extra_replica_goes_to_the_best_part_below_its_cap() {
        let part = |nodes, open, best| Part { nodes, open, best };
        let parts = [part(2, 2, 10), part(2, 1, 30), part(1, 1, 40), part(2, 2, 20)];
        assert_eq!(allot(2, &parts), [(2, 1), (1, 1)]);
        assert_eq!(allot(5, &parts), [(2, 1), (1, 1), (3, 2), (0, 1)]);
    }

    #[test]
    fn a_spread_is_told_from_a_heap() {
        assert!(is_spread(&[1, 1, 1, 0], &[5, 5, 5, 5]));
        assert!(!is_spread(&[2, 1, 0, 0], &[5, 5, 5, 5]));
        assert!(is_spread(&[1, 3, 3], &[1, 5, 5]));
        assert!(!is_spread(&[1, 4, 2], &[1, 5, 5]));
    }

    #[test]
    fn interleaving_goes_round_by_round() {
        assert_eq!(interleave(&[vec![1, 2, 3], vec![4], vec![5, 6]]), [1, 4, 5, 2, 6, 3]);
    }
}
