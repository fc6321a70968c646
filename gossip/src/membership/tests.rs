//! Directed tests of what a scenario does not force: each was seen to fail with its rule taken out.

use foca::{Codec, Header, Message as SwimMessage, PostcardCodec, State};
use isochrone_ident::Incarnation;

use super::doubt::{FORGIVEN_MAX, HELD_MAX};
use super::timing::Timing;
use super::wire::Datagram;
use super::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn identity(node: u128) -> Identity {
    let (region, address) = (Region::new("eu-west").expect("a name"), Address::new("a:1").expect("an address"));
    Identity { incarnation: Incarnation(1), ..Identity::unheard(NodeId(node), region, address) }
}

/// A pool that knows that many members, none of whom will ever answer.
fn deaf_pool(members: u128, health: &mut LocalHealth) -> Pool {
    let mut pool = Pool::new(Scope::Local, identity(100), 1000, 1);
    (1..=members).for_each(|node| pool.saw_alive(Duration::ZERO, identity(node), health));
    pool
}

fn count(pool: &Pool, state: State) -> usize {
    pool.members().filter(|member| member.state() == state).count()
}

fn in_doubt() -> LocalHealth {
    let mut health = LocalHealth::default();
    health.lagged(Duration::from_secs(10));
    assert!(health.doubts());
    health
}

/// Runs a pool to a moment, timer by timer.
fn run(pool: &mut Pool, until: Duration, health: &mut LocalHealth) {
    while let Some(due) = pool.next_timeout().filter(|due| *due <= until) {
        pool.timeout(due, health);
    }
}

#[test]
fn m5_failed_probes_are_forgiven_while_in_doubt_but_not_for_ever() {
    let mut health = in_doubt();
    let mut pool = deaf_pool(1, &mut health);
    let probe = Timing::of(Scope::Local, None).probe_period * health.stretch();
    run(&mut pool, probe * (u32::from(FORGIVEN_MAX) + 1), &mut health);
    assert_eq!(count(&pool, State::Suspect), 0);
    run(&mut pool, probe * (u32::from(FORGIVEN_MAX) + 3), &mut health);
    assert_eq!(count(&pool, State::Suspect), 1);

    let mut health = LocalHealth::default();
    let mut pool = deaf_pool(1, &mut health);
    run(&mut pool, Timing::of(Scope::Local, None).probe_period * 2, &mut health);
    assert_eq!(count(&pool, State::Suspect), 1, "without doubt the first failure counts");
}

#[test]
fn m5_a_suspects_end_is_put_off_while_in_doubt_but_not_for_ever() {
    let timing = Timing::of(Scope::Local, None);
    let mut health = LocalHealth::default();
    let mut pool = deaf_pool(1, &mut health);
    run(&mut pool, timing.probe_period * 2, &mut health);
    assert_eq!(count(&pool, State::Suspect), 1);
    health.lagged(Duration::from_secs(10));
    let suspicion = timing.suspicion(2);
    run(&mut pool, timing.probe_period * 2 + suspicion + ms(1), &mut health);
    assert_eq!(count(&pool, State::Suspect), 1, "held back");
    run(&mut pool, timing.probe_period * 2 + suspicion * (u32::from(HELD_MAX) + 1) + ms(1), &mut health);
    assert_eq!(count(&pool, State::Down), 1, "for {HELD_MAX} times at most");
}

#[test]
fn m5_timers_move_by_the_time_in_which_we_stood_still() {
    let mut health = LocalHealth::default();
    let mut pool = deaf_pool(2, &mut health);
    let due = pool.next_timeout().expect("it probes");
    pool.shift(ms(5000));
    assert_eq!(pool.next_timeout(), Some(due + ms(5000)));
}

fn membership(node: u128, gateways: usize) -> Membership {
    let options = MembershipOptions { me: identity(node), seed: 1, datagram_bytes_max: 1100, gateways, members_max: 100 };
    Membership::new(options, Duration::ZERO)
}

fn pings(membership: &mut Membership) -> usize {
    let is_ping = |(_, bytes): &(NodeId, Bytes)| match Datagram::decode(bytes) {
        Ok(Datagram::Pool(_, data)) => {
            let header: Header<Identity> = PostcardCodec.decode_header(data).expect("our own");
            matches!(header.message, SwimMessage::Ping(_))
        }
        _ => false,
    };
    std::iter::from_fn(|| membership.poll_send()).filter(is_ping).count()
}

#[test]
fn m5_a_probe_is_not_due_only_because_we_stood_still() {
    let mut late = membership(9, 1);
    late.connected(Duration::ZERO, identity(1));
    assert_eq!(pings(&mut late), 0);
    assert!(late.timeout(ms(10_000)).is_some_and(|lag| lag > ms(9000)));
    assert_eq!(pings(&mut late), 0, "the first probe was due long before, but not after the time that we lived");
    assert!(late.doubt() > 0);
}

#[test]
fn m5_a_gateway_that_comes_back_to_the_wide_pool_comes_under_a_later_identity() {
    let mut member = membership(9, 1);
    let wide = |member: &Membership| member.wide.as_ref().map(|pool| pool.identity().rejoins);
    assert_eq!(wide(&member), Some(0), "alone in its region");
    member.connected(ms(10), identity(1));
    assert_eq!(wide(&member), None, "1 is lower");
    member.forget(ms(20), NodeId(1));
    assert_eq!(wide(&member), Some(1));
}

#[test]
fn m5_who_is_said_to_be_down_comes_back_under_a_later_identity() {
    let mut member = membership(9, 2);
    member.connected(Duration::ZERO, identity(1));
    let said = |liveness, life: &Identity| vec![Fact { identity: life.clone(), swim: 0, liveness }];
    member.summary(ms(10), NodeId(1), said(Liveness::Down, &identity(9)), &[]);
    assert_eq!((member.own_fact(Liveness::Alive).identity.rejoins, member.rejoined()), (1, 1));
    member.summary(ms(20), NodeId(1), said(Liveness::Down, &identity(9)), &[]);
    assert_eq!(member.rejoined(), 1, "old news about an old life");
}
