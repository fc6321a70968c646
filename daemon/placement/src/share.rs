//! The fair share of each node, from which its load cap comes (P2).
//!
//! Fair is what the weights give *once spread is kept*: with three replicas over three regions, each region holds every slot, whatever its weight.
//! So the share of a part is its level, and the chance that it takes one of the extra replicas. Taking the parts with the k best draws is successive
//! sampling; the chance of a part of weight w is close to `1 - exp(-w t)`, with t such that the chances add up to k (Rosén 1997, "Asymptotic theory
//! for order sampling", section 3; for weights 2, 1, 1 and k = 2 it gives 0.828 and 0.586 for the true 0.833 and 0.583).

use isochrone_ident::SLOTS;

use crate::spread::level;

/// What a node may hold, as a multiple of its fair share (P2).
pub(crate) const LOAD_CAP: f64 = 1.25;

/// What rounding may add to a share, in slots, without a whole slot more.
const ROUNDING: f64 = 1e-6;

/// A part of a group: its nodes and their weights' sum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bin {
    /// How many nodes.
    pub(crate) nodes: usize,
    /// The sum of their weights.
    pub(crate) weight: f64,
}

/// The load cap, in slots, of a node whose fair share is `share` of all slots: at least one, at most all.
pub(crate) fn cap(share: f64) -> u32 {
    (LOAD_CAP * share * f64::from(SLOTS) - ROUNDING).ceil().clamp(1.0, f64::from(SLOTS)) as u32
}

/// How many of `count` replicas each part takes on average; `count` may itself be an average.
pub(crate) fn shares(count: f64, bins: &[Bin]) -> Vec<f64> {
    let whole = count.floor();
    let part = count - whole;
    let low = shares_of_whole(whole as usize, bins);
    if part < 1e-9 {
        return low;
    }
    let high = shares_of_whole(whole as usize + 1, bins);
    low.iter().zip(high).map(|(low, high)| low * (1.0 - part) + high * part).collect()
}

fn shares_of_whole(count: usize, bins: &[Bin]) -> Vec<f64> {
    let (level, extra) = level(count, &bins.iter().map(|bin| bin.nodes));
    let weight = |bin: &Bin| if bin.nodes > level { bin.weight } else { 0.0 };
    let time = time_of(extra as f64, &bins.iter().map(weight));
    bins.iter().map(|bin| bin.nodes.min(level) as f64 + chance(weight(bin), time)).collect()
}

fn chance(weight: f64, time: f64) -> f64 {
    -(-weight * time).exp_m1()
}

/// The t at which the chances of these weights add up to `count`, which is below their number; 0 for 0.
fn time_of(count: f64, weights: &(impl Iterator<Item = f64> + Clone)) -> f64 {
    if count == 0.0 {
        return 0.0;
    }
    let reached = |time: f64| weights.clone().map(|weight| chance(weight, time)).sum::<f64>() >= count;
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..100 {
        if reached(high) {
            break;
        }
        (low, high) = (high, high * 2.0);
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if reached(middle) { high = middle } else { low = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bins(parts: &[(usize, f64)]) -> Vec<Bin> {
        parts.iter().map(|&(nodes, weight)| Bin { nodes, weight }).collect()
    }

    fn close(found: &[f64], expected: &[f64]) -> bool {
        found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.01)
    }

    #[test]
    fn shares_add_up_and_follow_the_weights_within_the_spread() {
        assert!(close(&shares(3.0, &bins(&[(9, 1.0), (9, 5.0), (9, 90.0)])), &[1.0, 1.0, 1.0]));
        assert!(close(&shares(2.0, &bins(&[(9, 2.0), (9, 1.0), (9, 1.0)])), &[0.828, 0.586, 0.586]));
        assert!(close(&shares(1.0, &bins(&[(1, 1.0); 10])), &[0.1; 10]));
        assert!(close(&shares(5.0, &bins(&[(1, 9.0), (9, 1.0), (9, 1.0)])), &[1.0, 2.0, 2.0]));
        assert!(close(&shares(0.5, &bins(&[(1, 1.0), (1, 1.0)])), &[0.25, 0.25]));
        assert!(close(&shares(7.0, &bins(&[(1, 1.0), (1, 1.0)])), &[1.0, 1.0]));
    }

    #[test]
    fn shares_add_up_for_weights_far_apart() {
        let found = shares(2.0, &bins(&[(1, 20_000.0), (1, 0.01), (1, 0.005)]));
        assert!((found.iter().sum::<f64>() - 2.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn p2_the_cap_is_a_quarter_above_the_fair_share() {
        assert_eq!((cap(3.0 / 60.0), cap(1.0), cap(0.0)), (256, 4096, 1));
    }
}
