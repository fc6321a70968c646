use super::*;

const THEM: NodeId = NodeId(2);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Two ends of one link, 20 ms apart, in virtual time.
struct Pair {
    ends: [Links; 2],
    now: Duration,
    cut: [bool; 2],
    lose_every: Option<u32>,
    sent: u32,
    flying: Vec<(Duration, usize, Beat)>,
    skew_ms: i64,
}

impl Pair {
    fn new() -> Self {
        let mut ends = [Links::default(), Links::default()];
        ends.iter_mut().for_each(|end| end.connected(Duration::ZERO, THEM));
        Self { ends, now: Duration::ZERO, cut: [false; 2], lose_every: None, sent: 0, flying: Vec::new(), skew_ms: 0 }
    }

    fn wall(&self, end: usize) -> WallMicros {
        let skew = if end == 1 { self.skew_ms } else { 0 };
        WallMicros(u64::try_from(i64::try_from(self.now.as_micros()).expect("fits") + 10_000_000_000 + skew * 1000).expect("positive"))
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            for end in 0..2 {
                let beats = self.ends[end].beats(self.now, self.wall(end), |_| Some(ms(40)));
                for (_, beat) in beats {
                    self.sent += 1;
                    let lost = self.lose_every.is_some_and(|n| self.sent.is_multiple_of(n));
                    if !self.cut[end] && !lost {
                        self.flying.push((self.now + ms(20), 1 - end, beat));
                    }
                }
            }
            let (now, wall) = (self.now, [self.wall(0), self.wall(1)]);
            let (arrived, flying) = std::mem::take(&mut self.flying).into_iter().partition(|(at, ..)| *at <= now);
            self.flying = flying;
            for (_, end, beat) in arrived {
                self.ends[end].beat(now, wall[end], THEM, &beat, Some(ms(40)));
            }
            self.now += ms(10);
        }
    }

    fn states(&self) -> [LinkState; 2] {
        [self.ends[0].health(THEM).state, self.ends[1].health(THEM).state]
    }
}

#[test]
fn a_link_that_works_is_healthy_from_the_start() {
    let mut pair = Pair::new();
    for _ in 0..50 {
        pair.run(ms(100));
        assert_eq!(pair.states(), [LinkState::Healthy; 2]);
    }
    assert_eq!(pair.ends[0].health(THEM).score, 100);
}

#[test]
fn m6_a_one_way_cut_is_seen_at_both_ends_within_two_seconds_each_knowing_its_side() {
    let mut pair = Pair::new();
    pair.run(ms(3000));
    pair.cut[0] = true;
    pair.run(ms(1300));
    assert_eq!(pair.states(), [LinkState::Unheard, LinkState::Silent]);
    pair.cut[0] = false;
    pair.run(ms(600));
    assert!(pair.states().iter().all(|state| matches!(state, LinkState::Healthy | LinkState::Lossy)));
    pair.run(ms(6000));
    assert_eq!(pair.states(), [LinkState::Healthy; 2]);
}

#[test]
fn a_link_on_which_we_were_never_heard_is_unheard() {
    let mut pair = Pair::new();
    pair.cut[0] = true;
    pair.run(ms(1500));
    assert_eq!(pair.states(), [LinkState::Unheard, LinkState::Silent]);
}

#[test]
fn loss_of_every_third_heartbeat_makes_a_link_lossy_and_of_every_twentieth_does_not() {
    let mut pair = Pair::new();
    pair.lose_every = Some(20);
    pair.run(ms(10_000));
    assert_eq!(pair.states(), [LinkState::Healthy; 2]);
    pair.lose_every = Some(3);
    pair.run(ms(10_000));
    assert!(pair.states().contains(&LinkState::Lossy), "{:?}", pair.states());
}

#[test]
fn calls_that_time_out_make_a_link_failing_until_one_is_answered_or_they_age() {
    let mut links = Links::default();
    links.connected(Duration::ZERO, THEM);
    let state = |links: &Links| links.health(THEM).state;
    (0..3).for_each(|_| links.call_ended(ms(10), THEM, CallOutcome::TimedOut, None));
    assert_eq!(state(&links), LinkState::Failing);
    links.call_ended(ms(20), THEM, CallOutcome::Answered(ms(5)), None);
    assert_eq!(state(&links), LinkState::Healthy);
    (0..3).for_each(|_| links.call_ended(ms(30), THEM, CallOutcome::Failed, None));
    let old = Beat { sequence: 9, every_ms: 250, wall: WallMicros(0), heard: None };
    links.beat(ms(3100), WallMicros(0), THEM, &old, None);
    assert_eq!(links.health(THEM).failures, 0);
}

#[test]
fn a_closed_connection_is_known_at_once() {
    let mut pair = Pair::new();
    pair.run(ms(500));
    pair.ends[0].take_changed();
    pair.ends[0].disconnected(pair.now, THEM);
    assert_eq!(pair.ends[0].health(THEM).state, LinkState::Disconnected);
    assert!(pair.ends[0].take_changed());
    assert_eq!(pair.ends[0].next_timeout(), None, "no heartbeats without a connection");
}

#[test]
fn time_in_which_we_stood_still_is_nobody_elses_silence() {
    let mut pair = Pair::new();
    pair.run(ms(2000));
    let end = &mut pair.ends[0];
    end.stood_still(pair.now + ms(30_000), ms(30_000));
    end.beats(pair.now + ms(30_000), WallMicros(0), |_| None);
    assert_eq!(end.health(THEM).state, LinkState::Healthy);
}

#[test]
fn a_peers_clock_offset_is_measured_through_heartbeats() {
    let mut pair = Pair::new();
    pair.skew_ms = 750;
    pair.run(ms(3000));
    assert_eq!(pair.ends[0].clock_offset_ms(THEM), Some(750));
    assert_eq!(pair.ends[1].clock_offset_ms(THEM), Some(-750));
    assert_eq!(pair.ends[0].clock(), ClockVerdict::Disputed { ms: 750 });
}

#[test]
fn packets_that_the_path_lost_count_per_connection() {
    let mut links = Links::default();
    links.connected(Duration::ZERO, THEM);
    let sample = |sent_packets, lost_packets, link| PathSample { rtt: ms(40), sent_packets, lost_packets, link };
    (1..20).for_each(|i| links.path(ms(i), THEM, sample(i * 100, i * 50, 1), None));
    assert_eq!(links.health(THEM).state, LinkState::Lossy);
    (1..20).for_each(|i| links.path(ms(100 + i), THEM, sample(i * 100, 0, 2), None));
    assert_eq!(links.health(THEM).state, LinkState::Healthy);
}

#[test]
fn a_repeated_or_late_heartbeat_does_not_count_as_hearing() {
    let mut links = Links::default();
    links.connected(Duration::ZERO, THEM);
    let beat = |sequence| Beat { sequence, every_ms: 0, wall: WallMicros(0), heard: None };
    links.beat(ms(10), WallMicros(0), THEM, &beat(u32::MAX), None);
    links.beat(ms(1500), WallMicros(0), THEM, &beat(3), None);
    assert_eq!(links.health(THEM).state, LinkState::Silent);
}
