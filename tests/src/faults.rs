//! What breaks, and when: drawn from the seed before the run begins.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::shape::Shape;

/// Seeds from here on also lose disks, and keep so little for replicas that are away that they lapse (E5): those are for long runs.
pub const HARDER: u64 = 100;

/// One fault. Those that last end after their time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// So many packets in a million are lost one way.
    Lose {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// Packets in a million.
        ppm: u32,
    },
    /// Everything is lost one way.
    CutOneWay {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
    },
    /// Large packets are lost one way, as where a tunnel takes less than was found before; small ones pass.
    LoseLarge {
        /// Sender.
        from: usize,
        /// Receiver.
        to: usize,
        /// Bytes of the largest packet that passes.
        bytes_max: usize,
    },
    /// A region is cut off from all others.
    CutRegion {
        /// A node of that region.
        of: usize,
    },
    /// A machine loses its power; what was not synced is lost in part or whole. It is started again after the time.
    Crash {
        /// The node.
        node: usize,
        /// Writes to its store after which the power goes; with 0, at once.
        after_writes: u64,
    },
    /// A machine is lost with its disk. After the time another one takes its place, empty, under a new id; an operator removes the old one.
    LoseDisk {
        /// The node.
        node: usize,
    },
    /// A wall clock jumps, and back after the time.
    ClockStep {
        /// The node.
        node: usize,
        /// By so many milliseconds.
        millis: i64,
    },
    /// The store's next sync fails; the daemon has to give up, and is started again.
    SyncError {
        /// The node.
        node: usize,
    },
    /// The disk takes only so many bytes more.
    DiskFull {
        /// The node.
        node: usize,
        /// Bytes that are left.
        room: u64,
    },
    /// Every sync takes so much longer.
    SlowDisk {
        /// The node.
        node: usize,
        /// Milliseconds.
        millis: u64,
    },
}

/// A fault with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, counted from the first request.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What breaks.
    pub fault: Fault,
}

/// The faults of a run, in the order of their beginnings: about one in a second and a half.
#[must_use]
pub fn draw(seed: u64, shape: &Shape, time: Duration) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xfa_17);
    let count = (time.as_millis() / 1_500).max(4);
    let end = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut planned: Vec<Planned> = (0..count)
        .map(|_| {
            let at = Duration::from_millis(rng.random_range(0..end));
            let lasts = Duration::from_millis(rng.random_range(200..end / 2));
            Planned { at, lasts, fault: one(&mut rng, shape.nodes.len()) }
        })
        .collect();
    // One, for no cluster can do without all of its disks.
    if seed >= HARDER && rng.random_ratio(1, 3) {
        let initial = (0..shape.nodes.len()).filter(|&n| shape.is_initial(n)).count();
        let (at, lasts) = (time.mul_f64(rng.random_range(0.1..0.7)), Duration::from_millis(rng.random_range(500..4_000)));
        planned.push(Planned { at, lasts, fault: Fault::LoseDisk { node: rng.random_range(0..initial) } });
    }
    planned.sort_by_key(|p| p.at);
    planned
}

fn one(rng: &mut StdRng, nodes: usize) -> Fault {
    let node = rng.random_range(0..nodes);
    let other = (node + rng.random_range(1..nodes)) % nodes;
    match rng.random_range(0..100) {
        0..15 => Fault::Lose { from: node, to: other, ppm: rng.random_range(10_000..300_000) },
        15..30 => Fault::CutOneWay { from: node, to: other },
        30..45 => Fault::CutRegion { of: node },
        45..60 => Fault::Crash { node, after_writes: 0 },
        60..68 => Fault::Crash { node, after_writes: rng.random_range(1..200) },
        68..80 => Fault::ClockStep { node, millis: step(rng) },
        80..85 => Fault::SyncError { node },
        85..92 => Fault::DiskFull { node, room: rng.random_range(0..200_000) },
        _ => Fault::SlowDisk { node, millis: rng.random_range(20..800) },
    }
}

/// Half of the steps are within the 500 ms that clocks may differ by, half beyond; both ways.
fn step(rng: &mut StdRng) -> i64 {
    let millis = if rng.random() { rng.random_range(50..450) } else { rng.random_range(600..5_000) };
    if rng.random() { millis } else { -millis }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_faults_each_time_and_another_seed_others() {
        let shape = Shape::of(3, 1, false, 1);
        let time = Duration::from_secs(20);
        assert_eq!(draw(1, &shape, time), draw(1, &shape, time));
        assert_ne!(draw(1, &shape, time), draw(2, &shape, time));
    }
}
