//! Counters, sets, maps and registers in the store: taken in order, applied in order, refused whole.

mod support;

use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{ClusterName, Incarnation, Kind, NodeId, Version, WallMicros};
use isochrone_replica::{Actor, Change, ChangeRefused, DigestKey, Record, Stamp, Typed, TypedLimits, Upkeep, View};
use isochrone_store::{Durability, KeptAnswer, Placed, RequestKey, Sequence, Store, StoreOptions, Write, WriteError, WriteSet};
use support::{World, key, live, ns, placed, put, run, slot_of, version, write};

const NOW: WallMicros = WallMicros(1_000_000);

fn stamp(hlc: u64) -> Stamp {
    let version = Version { node: NodeId(7), incarnation: Incarnation(1), ..version(hlc) };
    Stamp { version, actor: Actor { node: NodeId(7), life: 1 }, now: NOW, skew_ms: 500, expires_at: None }
}

fn change(change: Change, hlc: u64) -> Write {
    Write::Change { change, stamp: stamp(hlc), limits: TypedLimits { set_members: 3, ..TypedLimits::default() }, causes: None }
}

fn count(text: &str, add: i64, hlc: u64) -> Placed {
    write("data", Kind::Counter, text, change(Change::Count { add, claim: None }, hlc))
}

fn add_member(text: &str, member: &'static str, hlc: u64) -> Placed {
    write("data", Kind::Set, text, change(Change::UpdateSet { add: vec![member.into()], remove: Vec::new() }, hlc))
}

fn one(entry: Placed) -> WriteSet {
    WriteSet { log: true, ..WriteSet::of(vec![entry]) }
}

fn held(store: &Store, name: &str, kind: Kind, text: &str) -> Option<Record> {
    store.get(slot_of(text.as_bytes()), &ns(name), kind, text.as_bytes()).expect("reads")
}

fn view(record: Option<Record>) -> Option<View> {
    record?.as_typed().and_then(|typed: &Typed| typed.view(NOW, 500))
}

fn counted(store: &Store, text: &str) -> Option<View> {
    view(held(store, "data", Kind::Counter, text))
}

fn members(store: &Store, text: &str) -> Vec<Bytes> {
    match view(held(store, "data", Kind::Set, text)) {
        Some(View::Set(members)) => members,
        _ => Vec::new(),
    }
}

fn request(text: &str) -> RequestKey {
    RequestKey::new(text.to_owned()).expect("a request key")
}

fn options(world: &World) -> StoreOptions {
    StoreOptions { digest_key: Some(DigestKey::of(&ClusterName::new("earth").expect("a name"))), ..world.options() }
}

#[test]
fn e3_adds_of_many_writers_at_once_all_count() {
    run(async {
        let store = World::default().open();
        let writes = (1..=100).map(|hlc| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(one(count("hits", 2, hlc))).await })
        });
        for write in writes.collect::<Vec<_>>() {
            let outcome = write.await.expect("runs").expect("commits").outcomes.remove(0);
            assert!(outcome.taken && outcome.logged.is_some() && matches!(view(outcome.state), Some(View::Counter(_))));
        }
        assert_eq!(counted(&store, "hits"), Some(View::Counter(200)));
        assert_eq!(held(&store, "data", Kind::Counter, "hits").expect("held").version.hlc.0, 100);
        assert_eq!(store.stats().keys, 1);
    });
}

#[test]
fn writes_of_one_set_to_one_counter_see_each_other() {
    run(async {
        let store = World::default().open();
        let set = WriteSet::of(vec![count("a", 1, 1), count("a", 10, 2), count("b", 5, 3), count("a", 100, 4)]);
        let seen: Vec<_> = store.commit(set).await.expect("commits").outcomes.into_iter().map(|o| view(o.state)).collect();
        assert_eq!(seen, [1, 11, 5, 111].map(|value| Some(View::Counter(value))));
        assert_eq!(counted(&store, "a"), Some(View::Counter(111)));
        assert_eq!(store.stats().keys, 2);
    });
}

#[test]
fn each_kind_is_a_key_space_of_its_own() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.commit(put("k", 1, "a value")).await.expect("commits");
        store.commit(one(count("k", 4, 2))).await.expect("commits");
        store.commit(one(add_member("k", "m", 3))).await.expect("commits");
        for _ in 0..2 {
            assert_eq!(held(&store, "data", Kind::Value, "k"), Some(live(1, "a value")), "from the disk, and from memory");
            assert_eq!(counted(&store, "k"), Some(View::Counter(4)));
            assert_eq!(members(&store, "k"), ["m"]);
            assert_eq!(held(&store, "data", Kind::Map, "k"), None);
        }
        let listed = |kind| store.list(&ns("data"), kind, b"", None, 9, &|_| true).expect("lists").items;
        assert_eq!([Kind::Value, Kind::Counter, Kind::Set, Kind::Map].map(|kind| listed(kind).len()), [1, 1, 1, 0]);
        assert!(listed(Kind::Set)[0].live && listed(Kind::Set)[0].bytes > 0);
        let page = store.scan_slot(slot_of(b"k"), None, 1 << 20).expect("scans");
        let kinds: Vec<Kind> = page.entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, [Kind::Value, Kind::Counter, Kind::Set]);
        let record = (slot_of(b"k"), ns("data"), Kind::Counter, key("k"), stamp(2).version);
        assert_eq!(store.forget(vec![record]).await, Ok(1));
        assert_eq!((counted(&store, "k"), members(&store, "k").len()), (None, 1));
        world.disk.crash(1);
        drop(store);
        assert_eq!(members(&world.open(), "k"), ["m"]);
    });
}

#[test]
fn a_record_of_another_kind_than_its_key_is_not_taken() {
    run(async {
        let store = World::default().open();
        let wrong = write("data", Kind::Counter, "k", Write::Merge(live(1, "v")));
        assert!(!store.commit(WriteSet::of(vec![wrong])).await.expect("commits").outcomes[0].taken);
        assert_eq!(held(&store, "data", Kind::Counter, "k"), None);
        let wrong = write("data", Kind::Set, "k", change(Change::Count { add: 1, claim: None }, 1));
        let refused = store.commit(WriteSet::of(vec![wrong])).await;
        assert!(matches!(refused, Err(WriteError::Refused(ChangeRefused::WrongKind { .. }))), "{refused:?}");
    });
}

#[test]
fn a_refused_change_refuses_its_whole_set() {
    run(async {
        let store = World::default().open();
        for (hlc, member) in (1..).zip(["a", "b", "c"]) {
            store.commit(one(add_member("full", member, hlc))).await.expect("commits");
        }
        let set = WriteSet {
            answers: vec![KeptAnswer { key: request("r"), until: WallMicros(99), body: Bytes::new(), counted: false }],
            ..WriteSet::of(vec![placed("data", "other", live(4, "v")), count("hits", 1, 5), add_member("full", "d", 6)])
        };
        let refused = store.commit(set).await;
        assert!(matches!(&refused, Err(error @ WriteError::Refused(ChangeRefused::TooManyMembers { max: 3 })) if error.is_unapplied()));
        assert_eq!((held(&store, "data", Kind::Value, "other"), counted(&store, "hits")), (None, None));
        assert_eq!((store.answer(&request("r")), members(&store, "full").len()), (Ok(None), 3));
        assert_eq!(store.stats().last_sequence, Sequence(3));
        store.commit(one(count("hits", 1, 7))).await.expect("the store goes on");
    });
}

#[test]
fn an_answer_that_is_kept_tells_what_the_counter_stood_at() {
    run(async {
        let store = World::default().open();
        store.commit(one(count("hits", 40, 1))).await.expect("commits");
        let set = |hlc| WriteSet {
            answers: vec![KeptAnswer { key: request("r"), until: WallMicros(99), body: Bytes::from_static(b"v"), counted: true }],
            ..one(count("hits", 2, hlc))
        };
        assert_eq!(store.commit(set(2)).await.expect("commits").earlier, None);
        let expected = [b"v".as_slice(), &postcard::to_allocvec(&42_i64).expect("encodes")].concat();
        assert_eq!(store.commit(set(3)).await.expect("commits").earlier.as_deref(), Some(expected.as_slice()));
        assert_eq!(counted(&store, "hits"), Some(View::Counter(42)));
        let logged = &store.log_after(Sequence(1), 9).expect("reads").operations;
        assert_eq!((logged.len(), logged[0].request.as_ref(), logged[0].delta.as_ref()), (1, Some(&request("r")), None));
        assert_eq!(store.kept_answer(&request("r")), Ok(Some((expected.into(), WallMicros(99)))));
    });
}

#[test]
fn a_learned_answer_is_kept_if_there_is_none_and_never_makes_a_set_a_repeat() {
    run(async {
        let store = World::default().open();
        let learn = |answer: &'static str, hlc| WriteSet {
            learned: vec![(request("r"), Bytes::from_static(answer.as_bytes()), WallMicros(99))],
            ..put("k", hlc, answer)
        };
        for (answer, hlc) in [("first", 1), ("second", 2)] {
            let committed = store.commit(learn(answer, hlc)).await.expect("commits");
            assert!(committed.earlier.is_none() && committed.outcomes[0].taken);
            assert_eq!(store.answer(&request("r")), Ok(Some(Bytes::from_static(b"first"))));
        }
        let repeat = KeptAnswer { key: request("r"), until: WallMicros(99), body: Bytes::new(), counted: false };
        let repeat = store.commit(WriteSet { answers: vec![repeat], ..put("k", 3, "third") }).await.expect("commits");
        assert_eq!(repeat.earlier, Some(Bytes::from_static(b"first")));
        assert_eq!(store.stats().answers, 1);
    });
}

/// What the log of one store brings to another.
fn deltas(store: &Store) -> Vec<Placed> {
    let page = store.log_after(Sequence(0), 100).expect("reads");
    assert_eq!((page.skipped, page.through), (0, store.stats().last_sequence));
    let apply = |one: isochrone_store::Logged| {
        let write = Write::Apply { version: one.version, delta: one.delta.expect("of a set"), causes: None };
        Placed { slot: one.slot, ns: one.ns, kind: one.kind, key: one.key, write, evictable: false }
    };
    page.operations.into_iter().map(apply).collect()
}

async fn ready(store: &Store) {
    while !store.digests_ready() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn e2_deltas_in_order_lead_to_the_same_records_and_a_gap_is_told_and_closed_by_the_state() {
    run(async {
        let (one_world, two_world) = (World::default(), World::default());
        let (source, target) = (one_world.open_with(options(&one_world)), two_world.open_with(options(&two_world)));
        for (hlc, (text, member)) in (1..).zip([("s", "a"), ("s", "b"), ("t", "x"), ("s", "c")]) {
            source.commit(one(add_member(text, member, hlc))).await.expect("commits");
        }
        let all = deltas(&source);
        let applied = target.commit(WriteSet::of(vec![all[0].clone()])).await.expect("commits");
        assert!(applied.outcomes[0].taken && !applied.outcomes[0].gap);
        let again = target.commit(WriteSet::of(vec![all[0].clone()])).await.expect("commits");
        assert!(!again.outcomes[0].taken && !again.outcomes[0].gap, "covered");
        let skipping = target.commit(WriteSet::of(vec![all[3].clone(), all[2].clone()])).await.expect("commits");
        let fates: Vec<(bool, bool)> = skipping.outcomes.iter().map(|o| (o.taken, o.gap)).collect();
        assert_eq!(fates, [(false, true), (true, false)], "what is after the gap is not applied, the rest of the set is");
        assert_eq!((members(&target, "s").len(), members(&target, "t").len()), (1, 1));
        let state = held(&source, "data", Kind::Set, "s").expect("held");
        target.commit(WriteSet::of(vec![write("data", Kind::Set, "s", Write::Merge(state))])).await.expect("commits");
        assert_eq!(members(&target, "s"), ["a", "b", "c"]);
        for store in [&source, &target] {
            ready(store).await;
        }
        assert_eq!(source.slot_roots(|_, _| true), target.slot_roots(|_, _| true), "and the digests are equal (E6)");
    });
}

#[test]
fn e3_after_writes_were_lost_that_others_may_have_seen_their_dots_are_not_given_out_again() {
    run(async {
        let world = World::default();
        let options = StoreOptions { full_retry: Duration::ZERO, sync_interval: Duration::from_secs(3600), ..options(&world) };
        let store = world.open_with(options);
        let add = |add, hlc, durability| {
            let entry = write("cache", Kind::Counter, "k", change(Change::Count { add, claim: None }, hlc));
            WriteSet { durability, ..WriteSet::of(vec![entry]) }
        };
        store.commit(add(1, 1, Durability::AtOnce)).await.expect("commits");
        store.commit(add(10, 2, Durability::Relaxed)).await.expect("commits");
        let seen_by_a_peer = held(&store, "cache", Kind::Counter, "k").expect("held");
        world.disk.set_capacity(Some(world.disk.used_bytes()));
        assert!(matches!(store.commit(put("huge", 1, vec![1; 1_000_000])).await, Err(WriteError::Full(_))));
        world.disk.set_capacity(None);
        assert_eq!(view(held(&store, "cache", Kind::Counter, "k")), Some(View::Counter(1)), "the relaxed write is lost here");
        store.commit(add(100, 3, Durability::AtOnce)).await.expect("commits");
        let ours = held(&store, "cache", Kind::Counter, "k").expect("held");
        assert_eq!(view(ours.merge(seen_by_a_peer).ok()), Some(View::Counter(111)), "and counts where it was seen");
    });
}

#[test]
fn e3_what_was_acknowledged_counts_once_through_any_loss_of_power() {
    for seed in 0..40 {
        run(async {
            let world = World::default();
            let (mut acknowledged, mut sent, mut hlc) = (0, 0, 0);
            let mut peer: Option<Record> = None;
            for life in 0..4 {
                let store = world.open();
                world.disk.power_off_after(20 + (seed * 7 + life * 13) % 60);
                while !world.disk.is_off() {
                    (sent, hlc) = (sent + 1, hlc + 1);
                    if let Ok(done) = store.commit(one(count("hits", 1, hlc))).await {
                        acknowledged += 1;
                        let state = done.outcomes[0].state.clone().expect("a change");
                        peer = Some(peer.map_or_else(|| state.clone(), |peer| peer.merge(state.clone()).expect("no dot is used twice")));
                    }
                }
                world.disk.crash(seed * 31 + life);
                drop(store);
                tokio::task::yield_now().await;
            }
            let store = world.open();
            let Some(View::Counter(value)) = counted(&store, "hits") else { panic!("nothing is held") };
            assert!((acknowledged..=sent).contains(&value), "seed {seed}: {value} of {acknowledged} to {sent}");
            let ours = held(&store, "data", Kind::Counter, "hits").expect("held");
            assert_eq!(view(ours.merge(peer.expect("some were acknowledged")).ok()), Some(View::Counter(value)));
        });
    }
}

#[test]
fn e8_pruning_drops_what_has_expired_and_leaves_the_version() {
    run(async {
        let store = World::default().open();
        let expiring = Stamp { expires_at: Some(WallMicros(2_000_000)), ..stamp(1) };
        let entry = |change, stamp| {
            write("data", Kind::Counter, "k", Write::Change { change, stamp, limits: TypedLimits::default(), causes: None })
        };
        let count = |add| Change::Count { add, claim: None };
        store.commit(one(entry(count(5), expiring))).await.expect("commits");
        assert_eq!(
            store.list(&ns("data"), Kind::Counter, b"", None, 9, &|_| true).expect("lists").items[0].expires_at,
            expiring.expires_at
        );
        let later = Stamp { now: WallMicros(9_000_000), expires_at: None, ..stamp(2) };
        store.commit(one(entry(count(7), later))).await.expect("commits");
        let before = held(&store, "data", Kind::Counter, "k").expect("held");
        let stable = isochrone_ident::Hlc::at(WallMicros(8_000_000));
        let upkeep = Upkeep { skew_ms: 500, stable, claim_ms: 1000, actor: stamp(2).actor };
        let prune = || one(write("data", Kind::Counter, "k", Write::Prune(upkeep)));
        assert!(store.commit(prune()).await.expect("commits").outcomes[0].taken);
        let after = held(&store, "data", Kind::Counter, "k").expect("held");
        assert!(after.bytes() < before.bytes() && after.version == before.version);
        assert_eq!(counted(&store, "k"), Some(View::Counter(7)));
        assert!(!store.commit(prune()).await.expect("commits").outcomes[0].taken, "once");
    });
}
