//! How far apart the regions of `dev` are.
//!
//! Round trips in milliseconds from Azure's published inter-region statistics, 95th percentile. A packet is delayed one way by half of it.

use std::collections::BTreeMap;

/// The regions, in the order in which they are started; the first three are the default.
const REGIONS: [&str; 5] = ["us-east", "eu-west", "ap-northeast", "us-west", "sa-east"];

/// Round trips in milliseconds, both ways alike.
const ROUND_TRIPS_MS: [(&str, &str, u16); 10] = [
    ("us-east", "eu-west", 75),
    ("us-east", "ap-northeast", 165),
    ("eu-west", "ap-northeast", 232),
    ("us-west", "us-east", 73),
    ("us-west", "eu-west", 138),
    ("us-west", "ap-northeast", 110),
    ("sa-east", "us-east", 120),
    ("sa-east", "us-west", 170),
    ("sa-east", "eu-west", 176),
    ("sa-east", "ap-northeast", 270),
];

/// The mean of the random part of each delay, in milliseconds.
pub(super) const JITTER_MEAN_MS: f64 = 0.1;

/// One-way delays in milliseconds, from each region to each other one.
pub(super) type OneWayMs = BTreeMap<&'static str, BTreeMap<&'static str, f64>>;

/// The first `count` regions.
pub(super) fn regions(count: usize) -> &'static [&'static str] {
    &REGIONS[..count.min(REGIONS.len())]
}

/// The published round trip between two distinct regions, in milliseconds.
fn round_trip_ms(a: &str, b: &str) -> f64 {
    let found = ROUND_TRIPS_MS.iter().find(|(x, y, _)| (*x == a && *y == b) || (*x == b && *y == a));
    found.map_or(0.0, |(_, _, ms)| f64::from(*ms))
}

/// The matrix of the first `count` regions, every delay times `scale`, in whole microseconds.
pub(super) fn one_way_ms(count: usize, scale: f64) -> OneWayMs {
    let regions = regions(count);
    let row = |from: &'static str| {
        let others = regions.iter().copied().filter(move |&to| to != from);
        others.map(move |to| (to, (round_trip_ms(from, to) / 2.0 * scale * 1e3).round() / 1e3)).collect()
    };
    regions.iter().map(|&from| (from, row(from))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_regions_has_one_published_round_trip() {
        for &a in &REGIONS {
            for &b in REGIONS.iter().filter(|&&b| b != a) {
                let count = ROUND_TRIPS_MS.iter().filter(|(x, y, _)| (*x == a && *y == b) || (*x == b && *y == a)).count();
                assert_eq!(count, 1, "{a} {b}");
            }
        }
    }

    #[test]
    fn one_way_is_half_of_the_round_trip_and_the_same_both_ways() {
        let matrix = one_way_ms(5, 1.0);
        assert_eq!(matrix["us-east"]["eu-west"], 37.5);
        assert_eq!(matrix["eu-west"]["ap-northeast"], 116.0);
        assert_eq!(matrix["sa-east"]["ap-northeast"], 135.0);
        for (from, row) in &matrix {
            assert_eq!(row.len(), 4);
            row.iter().for_each(|(to, ms)| assert_eq!(matrix[to][from], *ms));
        }
    }

    #[test]
    fn a_scale_stretches_every_delay() {
        assert_eq!(one_way_ms(3, 0.5)["us-east"]["ap-northeast"], 41.25);
        assert_eq!(one_way_ms(3, 0.1)["eu-west"]["ap-northeast"].to_string(), "11.6", "no digits that a node file refuses");
        assert!(one_way_ms(3, 0.0).values().flat_map(BTreeMap::values).all(|&ms| ms == 0.0));
    }
}
