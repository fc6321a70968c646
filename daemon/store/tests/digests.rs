//! E6: the digests of the slots say what the store holds, whatever happened to it.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use isochrone_ident::{ClusterName, Kind, Slot};
use isochrone_replica::{BUCKETS, DigestKey, Item, Record, SlotDigest, bucket_of};
use isochrone_store::{Changed, Driver, Durability, Medium, Store, StoreOptions, WriteSet, item_name, parse_item_name};
use proptest::prelude::*;
use support::{World, delete, key, live, ns, placed, put, run, slot_of, version};

fn options(world: &World) -> StoreOptions {
    StoreOptions { digest_key: Some(digest_key("earth")), ..world.options() }
}

fn digest_key(cluster: &str) -> DigestKey {
    DigestKey::of(&ClusterName::new(cluster).expect("a name"))
}

async fn ready(store: &Store) {
    for _ in 0..100_000 {
        if store.digests_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the records were not counted");
}

/// The digest of a slot, made from nothing but its records.
fn from_scratch(store: &Store, slot: Slot) -> SlotDigest {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let (mut digest, mut after) = (SlotDigest::default(), None);
    loop {
        let page = store.scan_buckets(slot, &all, |_| true, after.as_deref(), 3).expect("scans");
        page.items.iter().for_each(|item| digest.add(bucket_of(&item.name), item.fingerprint));
        match page.next {
            Some(next) => after = Some(next),
            None => return digest,
        }
    }
}

/// Checks every slot against its records; gives the roots.
fn check(store: &Store) -> Vec<u128> {
    for slot in Slot::all() {
        assert_eq!(store.slot_digest(slot, |_| true), Some(from_scratch(store, slot)), "{slot}");
    }
    store.slot_roots(|_, _| true).expect("ready")
}

#[derive(Debug, Clone)]
enum Step {
    Put { name: &'static str, key: u8, hlc: u64, bytes: usize, relaxed: bool },
    Delete { key: u8, hlc: u64 },
    Forget { key: u8, hlc: u64 },
    DropSlot { key: u8 },
    Reopen,
    Crash { seed: u64 },
    Full,
}

fn step() -> impl Strategy<Value = Step> {
    let put = (any::<bool>(), 0u8..12, 1u64..9, 0usize..3000, any::<bool>()).prop_map(|(durable, key, hlc, bytes, relaxed)| Step::Put {
        name: if durable { "data" } else { "cache" },
        key,
        hlc,
        bytes,
        relaxed,
    });
    prop_oneof![
        12 => put,
        3 => (0u8..12, 1u64..9).prop_map(|(key, hlc)| Step::Delete { key, hlc }),
        3 => (0u8..12, 1u64..9).prop_map(|(key, hlc)| Step::Forget { key, hlc }),
        1 => (0u8..12).prop_map(|key| Step::DropSlot { key }),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Full),
    ]
}

fn text(key: u8) -> String {
    format!("k{key}")
}

/// Takes one step; gives the store as it is afterwards.
async fn take(world: &World, store: Store, step: Step) -> Store {
    match step {
        Step::Put { name, key, hlc, bytes, relaxed } => {
            let durability = if relaxed { Durability::Relaxed } else { Durability::AtOnce };
            let entry = placed(name, &text(key), live(hlc, vec![key; bytes]));
            store.commit(WriteSet { durability, log: true, ..WriteSet::of(vec![entry]) }).await.expect("commits");
        }
        Step::Delete { key, hlc } => drop(store.commit(delete(&text(key), hlc)).await.expect("commits")),
        Step::Forget { key: number, hlc } => {
            let text = text(number);
            let record = (slot_of(text.as_bytes()), ns("data"), Kind::Value, key(&text), version(hlc));
            store.forget(vec![record]).await.expect("forgets");
        }
        Step::DropSlot { key } => drop(store.drop_slot(slot_of(text(key).as_bytes())).await.expect("drops")),
        Step::Reopen => {
            store.close().await;
            return world.open_with(small(world));
        }
        Step::Crash { seed } => {
            world.disk.crash(seed);
            drop(store);
            tokio::task::yield_now().await;
            return world.open_with(small(world));
        }
        Step::Full => {
            world.disk.set_capacity(Some(world.disk.used_bytes()));
            assert!(store.commit(put("huge", 1, vec![0; 1_000_000])).await.is_err());
            world.disk.set_capacity(None);
        }
    }
    store
}

/// Little room for what may be evicted.
fn small(world: &World) -> StoreOptions {
    StoreOptions { disk_bytes_max: 4 << 20, evictable_bytes_max: 8 << 10, sync_interval: Duration::from_secs(3600), ..options(world) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn e6_digests_are_those_of_the_records_after_any_history(steps in prop::collection::vec(step(), 1..60)) {
        run(async {
            let world = World::default();
            let mut store = world.open_with(small(&world));
            for step in steps {
                store = take(&world, store, step).await;
            }
            ready(&store).await;
            let roots = check(&store);
            store.close().await;
            let store = world.open_with(small(&world));
            ready(&store).await;
            assert_eq!(check(&store), roots, "counted anew");
        });
    }
}

fn many(count: u64, hlc: u64) -> WriteSet {
    WriteSet::of((0..count).map(|number| placed("data", &format!("key-{number}"), live(hlc, format!("{number} at {hlc}")))).collect())
}

#[test]
fn e6_records_are_counted_while_writers_change_them_before_and_behind_the_mark() {
    run(async {
        let world = World::default();
        let store = world.open_with(options(&world));
        store.commit(many(30_000, 1)).await.expect("commits");
        store.close().await;
        let store = world.open_with(options(&world));
        assert_eq!(
            (store.digests_ready(), store.slot_roots(|_, _| true), store.slot_digest(Slot::of_hash(1), |_| true)),
            (false, None, None)
        );
        let mut rounds = 0;
        while !store.digests_ready() {
            rounds += 1;
            let changes = (0..30_000).filter(|number| number % 97 == rounds % 97);
            let entries = changes.map(|number| placed("data", &format!("key-{number}"), live(1 + rounds, format!("again {number}"))));
            store.commit(WriteSet::of(entries.collect())).await.expect("commits");
            store.commit(delete(&format!("key-{}", rounds * 31), 1000)).await.expect("commits");
            let gone = format!("key-{}", rounds * 17);
            store.forget(vec![(slot_of(gone.as_bytes()), ns("data"), Kind::Value, key(&gone), version(1))]).await.expect("forgets");
        }
        assert!(rounds > 3, "writers were there while it counted: {rounds}");
        check(&store);
    });
}

#[test]
fn e6_on_a_thread_and_a_file_it_is_the_same() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let medium = || Medium::File(folder.path().join("store.redb"));
        let options = StoreOptions { driver: Driver::Thread, ..options(&World::default()) };
        let store = Store::open(medium(), options.clone()).expect("opens");
        store.commit(many(3000, 1)).await.expect("commits");
        store.close().await;
        let store = Store::open(medium(), options).expect("opens");
        store.commit(many(50, 2)).await.expect("commits");
        while !store.digests_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        check(&store);
        store.close().await;
    });
}

#[test]
fn e6_stores_that_came_to_the_same_records_on_different_ways_have_equal_roots() {
    run(async {
        let (one, two) = (World::default(), World::default());
        let (one, two) = (one.open_with(options(&one)), two.open_with(options(&two)));
        for store in [&one, &two] {
            ready(store).await;
        }
        for (text, hlc) in [("a", 1), ("b", 4), ("a", 3), ("c", 2)] {
            one.commit(put(text, hlc, format!("{text}{hlc}"))).await.expect("commits");
        }
        one.commit(WriteSet::of(vec![placed("cache", "x", live(1, "only here"))])).await.expect("commits");
        for (text, hlc) in [("c", 2), ("a", 3), ("b", 4)] {
            two.commit(put(text, hlc, format!("{text}{hlc}"))).await.expect("commits");
        }
        assert_eq!(one.slot_roots(|_, _| true), two.slot_roots(|_, _| true));
        two.commit(put("c", 3, "c3")).await.expect("commits");
        let differing: Vec<Slot> = Slot::all().filter(|&slot| one.slot_digest(slot, |_| true) != two.slot_digest(slot, |_| true)).collect();
        assert_eq!(differing, [slot_of(b"c")]);
    });
}

#[test]
fn e6_a_digest_is_over_the_namespaces_that_count() {
    run(async {
        let (one, two) = (World::default(), World::default());
        let (one, two) = (one.open_with(options(&one)), two.open_with(options(&two)));
        for store in [&one, &two] {
            ready(store).await;
            store.commit(put("a", 1, "shared")).await.expect("commits");
        }
        one.commit(WriteSet::of(vec![placed("pair", "a", live(2, "only at the first"))])).await.expect("commits");
        let roots = |store: &Store, name: &str| store.slot_roots(|_, counted| counted.as_str() == name).expect("ready");
        assert_eq!(roots(&one, "data"), roots(&two, "data"));
        assert_ne!(roots(&one, "pair"), roots(&two, "pair"));
        let slot = slot_of(b"a");
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let items = one.scan_buckets(slot, &all, |counted| counted.as_str() == "pair", None, 9).expect("scans").items;
        assert_eq!(items.iter().map(|item| item.gone_at).collect::<Vec<_>>(), [None]);
        one.commit(delete("a", 9)).await.expect("commits");
        let items = one.scan_buckets(slot, &all, |counted| counted.as_str() == "data", None, 9).expect("scans").items;
        assert_eq!(items[0].gone_at, Some(isochrone_ident::WallMicros(0)));
    });
}

#[test]
fn e6_another_cluster_has_other_roots_and_without_a_key_there_are_none() {
    run(async {
        let world = World::default();
        let store = world.open_with(options(&world));
        store.commit(put("a", 1, "v")).await.expect("commits");
        ready(&store).await;
        let roots = store.slot_roots(|_, _| true);
        store.close().await;
        let store = world.open_with(StoreOptions { digest_key: Some(digest_key("moon")), ..world.options() });
        ready(&store).await;
        assert_ne!(store.slot_roots(|_, _| true), roots);
        store.close().await;
        let store = world.open();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!((store.digests_ready(), store.slot_roots(|_, _| true)), (false, None));
        assert_eq!(store.scan_buckets(slot_of(b"a"), &[0], |_| true, None, 9).expect("scans").items, []);
    });
}

#[test]
fn e6_a_damaged_record_is_missing_from_the_digest_and_is_in_it_again_once_it_was_replaced() {
    run(async {
        let world = World::default();
        let store = world.open_with(options(&world));
        ready(&store).await;
        store.commit(put("good", 1, "a value that is fine")).await.expect("commits");
        store.commit(put("bad", 1, "a value to be damaged")).await.expect("commits");
        let whole = store.slot_roots(|_, _| true);
        store.close().await;
        let damaged = world.disk.after_power_loss(1);
        damaged.corrupt(b"a value to be damaged");
        let store = Store::open(Medium::Simulated(damaged.clone()), options(&world)).expect("opens");
        ready(&store).await;
        assert_ne!(store.slot_roots(|_, _| true), whole, "the comparison finds it missing");
        assert_eq!(store.stats().corrupt, 1);
        store.commit(put("bad", 1, "a value to be damaged")).await.expect("a peer sends it again");
        assert_eq!(store.slot_roots(|_, _| true), whole);
        check(&store);
    });
}

#[test]
fn e6_a_record_that_is_damaged_after_it_was_counted_does_not_stay_in_the_digest() {
    run(async {
        let world = World::default();
        // So little memory that the record is read from the disk again.
        let store = world.open_with(StoreOptions { memory_bytes_max: 1, ..options(&world) });
        ready(&store).await;
        store.commit(put("bad", 1, "a value to be damaged")).await.expect("commits");
        store.commit(many(40_000, 1)).await.expect("commits");
        assert!(world.disk.corrupt(b"a value to be damaged") > 0);
        let is_seen = store.get(slot_of(b"bad"), &ns("data"), Kind::Value, b"bad").is_err();
        store.commit(put("bad", 2, "sent by a peer")).await.expect("commits");
        check(&store);
        assert!(is_seen, "the damage was read");
    });
}

#[test]
fn e6_items_are_named_and_paged_and_of_the_buckets_asked_for() {
    run(async {
        let world = World::default();
        let store = world.open_with(options(&world));
        let slot = Slot::of_hash(9);
        for number in 0..300 {
            let mut one = placed("data", &format!("k{number}"), live(1, "v"));
            one.slot = slot;
            store.commit(WriteSet::of(vec![one])).await.expect("commits");
        }
        let wanted = [3, 77, 200];
        let (mut items, mut after): (Vec<Item>, _) = (Vec::new(), None);
        loop {
            let page = store.scan_buckets(slot, &wanted, |_| true, after.as_deref(), 1).expect("scans");
            assert!(page.items.len() <= 1);
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let expected =
            (0..300).filter(|number| wanted.contains(&bucket_of(&item_name(&ns("data"), Kind::Value, format!("k{number}").as_bytes()))));
        assert_eq!(items.len(), expected.count());
        assert!(!items.is_empty() && items.len() < 300 * wanted.len() / BUCKETS * 8);
        for item in items {
            let (space, kind, key) = parse_item_name(&item.name).expect("a name");
            assert_eq!((space, kind, item.version), (ns("data"), Kind::Value, version(1)));
            assert!(key.as_bytes().starts_with(b"k"));
        }
        assert!(parse_item_name(b"no kind").is_err());
    });
}

#[test]
fn an_observer_is_told_of_every_change_before_the_writer_is() {
    run(async {
        let store = World::default().open();
        store.commit(put("before", 1, "v")).await.expect("commits");
        let told: Arc<Mutex<Vec<Changed>>> = Arc::default();
        let (heard, reader) = (Arc::clone(&told), store.clone());
        let observer = Arc::new(move |changed: &[Changed]| {
            for one in changed {
                let held = reader.get(one.slot, &one.ns, one.kind, one.key.as_bytes()).expect("reads");
                assert_eq!(held.map_or(one.version, |record| record.version), one.version, "it can be read");
            }
            heard.lock().expect("not poisoned").extend_from_slice(changed);
        });
        assert!(store.observe(observer.clone()) && !store.observe(observer));
        let take = || -> Vec<(String, u64, bool)> {
            let told = std::mem::take(&mut *told.lock().expect("not poisoned"));
            told.into_iter().map(|one| (one.key.to_string(), one.version.hlc.0, one.live)).collect()
        };
        store.commit(put("a", 2, "v")).await.expect("commits");
        assert_eq!(take(), [("a".to_owned(), 2, true)]);
        store.commit(put("a", 1, "old")).await.expect("commits");
        assert_eq!(take(), [], "nothing changed");
        store.commit(WriteSet::of(vec![placed("data", "a", Record::tombstone(version(3)))])).await.expect("commits");
        assert_eq!(take(), [("a".to_owned(), 3, false)]);
        store.forget(vec![(slot_of(b"a"), ns("data"), Kind::Value, key("a"), version(3))]).await.expect("forgets");
        assert_eq!(take(), [("a".to_owned(), 3, false)]);
    });
}
