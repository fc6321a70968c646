//! The store as its callers see it.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use isochrone_ident::{Kind, Slot, WallMicros};
use isochrone_replica::Record;
use isochrone_store::{
    Driver, Durability, FactKey, KeptAnswer, Medium, OpenError, ReadError, RequestKey, Sequence, Store, WriteError, WriteSet,
};
use support::{World, delete, key, live, ns, placed, put, read, run, slot_of, version};

#[test]
fn what_was_committed_is_read_back_and_survives_a_loss_of_power() {
    run(async {
        let world = World::default();
        let store = world.open();
        let committed = store.commit(put("k", 1, "v")).await.expect("commits");
        assert_eq!(committed.outcomes.len(), 1);
        assert!(committed.outcomes[0].taken && committed.outcomes[0].before.is_none());
        assert_eq!(read(&store, "data", "k"), Some(live(1, "v")));
        assert_eq!(read(&store, "data", "k"), Some(live(1, "v")), "and from memory");
        world.disk.crash(7);
        drop(store);
        assert_eq!(read(&world.open(), "data", "k"), Some(live(1, "v")));
    });
}

#[test]
fn e4_the_later_version_wins_whatever_the_order() {
    run(async {
        let store = World::default().open();
        store.commit(put("k", 5, "new")).await.expect("commits");
        let outcome = store.commit(put("k", 3, "old")).await.expect("commits").outcomes.remove(0);
        assert!(!outcome.taken);
        assert_eq!((outcome.after, outcome.before.expect("was there").version), (version(5), version(5)));
        assert_eq!(read(&store, "data", "k"), Some(live(5, "new")));
        let outcome = store.commit(delete("k", 6)).await.expect("commits").outcomes.remove(0);
        assert!(outcome.taken && outcome.before.expect("was there").live);
        assert_eq!(read(&store, "data", "k"), Some(Record::tombstone(version(6))));
    });
}

#[test]
fn e2_a_second_value_for_one_version_is_refused() {
    run(async {
        let store = World::default().open();
        store.commit(put("k", 5, "one")).await.expect("commits");
        assert!(!store.commit(put("k", 5, "two")).await.expect("commits").outcomes[0].taken);
        assert_eq!(read(&store, "data", "k"), Some(live(5, "one")));
    });
}

#[test]
fn writes_of_one_set_see_each_other() {
    run(async {
        let store = World::default().open();
        let set =
            WriteSet::of(vec![placed("data", "k", live(2, "b")), placed("data", "k", live(1, "a")), placed("data", "k", live(3, "c"))]);
        let taken: Vec<bool> = store.commit(set).await.expect("commits").outcomes.iter().map(|o| o.taken).collect();
        assert_eq!(taken, [true, false, true]);
        assert_eq!(read(&store, "data", "k"), Some(live(3, "c")));
        assert_eq!(store.stats().keys, 1);
    });
}

#[test]
fn many_waiting_writes_share_a_sync() {
    run(async {
        let world = World::default();
        let store = world.open();
        let before = world.disk.syncs();
        let writes: Vec<_> = (0..200)
            .map(|number| {
                let store = store.clone();
                tokio::spawn(async move { store.commit(put(&format!("k{number}"), 1, "v")).await })
            })
            .collect();
        for write in writes {
            write.await.expect("runs").expect("commits");
        }
        assert!(world.disk.syncs() - before <= 6, "{} syncs", world.disk.syncs() - before);
        assert_eq!(store.stats().keys, 200);
    });
}

#[test]
fn e5_the_log_keeps_what_was_taken_until_it_is_trimmed_and_never_reuses_a_place() {
    run(async {
        let world = World::default();
        let store = world.open();
        let logged = |text: &str, hlc| WriteSet { log: true, ..put(text, hlc, "v") };
        for number in 1..=5 {
            let outcome = store.commit(logged(&format!("k{number}"), number)).await.expect("commits").outcomes.remove(0);
            assert_eq!(outcome.logged, Some(Sequence(number)));
        }
        assert_eq!(store.commit(logged("k1", 0)).await.expect("commits").outcomes[0].logged, None, "not taken, not logged");
        let after: Vec<u64> = store.log_after(Sequence(2), 2).expect("reads").operations.iter().map(|o| o.sequence.0).collect();
        assert_eq!(after, [3, 4]);
        let first = &store.log_after(Sequence(0), 1).expect("reads").operations[0];
        assert_eq!((first.slot, &first.ns, &first.key, first.version), (slot_of(b"k1"), &ns("data"), &key("k1"), version(1)));

        store.trim_log(Sequence(5));
        store.commit(put("other", 1, "v")).await.expect("commits");
        assert_eq!(store.log_after(Sequence(0), 10).expect("reads").operations, []);
        assert_eq!((store.stats().log_entries, store.stats().log_bytes), (0, 0));
        store.close().await;
        let store = world.open();
        assert_eq!(store.commit(logged("k9", 9)).await.expect("commits").outcomes[0].logged, Some(Sequence(6)));
    });
}

#[test]
fn e7_a_tombstone_is_forgotten_only_at_exactly_its_version() {
    run(async {
        let store = World::default().open();
        store.commit(delete("k", 5)).await.expect("commits");
        store.commit(put("l", 5, "v")).await.expect("commits");
        let forget = |text: &str, hlc| vec![(slot_of(text.as_bytes()), ns("data"), Kind::Value, key(text), version(hlc))];
        assert_eq!(store.forget(forget("k", 4)).await, Ok(0));
        assert!(read(&store, "data", "k").is_some());
        assert_eq!(store.forget(forget("k", 5)).await, Ok(1));
        assert_eq!(read(&store, "data", "k"), None);
        assert_eq!(store.list(&ns("data"), Kind::Value, b"", None, 10, &|_| true).expect("lists").items.len(), 1);
        assert_eq!(store.slot_totals(slot_of(b"k")).keys, 0);
    });
}

#[test]
fn listings_are_in_key_order_and_go_on_where_they_stopped() {
    run(async {
        let store = World::default().open();
        let entries = ["b/2", "a", "b/1", "b/3", "c"].map(|text| placed("data", text, live(1, text.to_owned())));
        store.commit(WriteSet::of(entries.into())).await.expect("commits");
        store.commit(WriteSet::of(vec![placed("data2", "b/9", live(1, "x"))])).await.expect("commits");
        let page = store.list(&ns("data"), Kind::Value, b"b/", None, 2, &|_| true).expect("lists");
        let keys: Vec<String> = page.items.iter().map(|item| item.key.to_string()).collect();
        assert_eq!(keys, ["b/1", "b/2"]);
        assert_eq!((page.items[0].bytes, page.items[0].live, page.items[0].version), (3, true, version(1)));
        let page = store.list(&ns("data"), Kind::Value, b"b/", page.next.as_ref().map(|key| key.as_bytes()), 2, &|_| true).expect("lists");
        assert_eq!((page.items.len(), page.next), (1, None));
        let wanted = store.list(&ns("data"), Kind::Value, b"", None, 9, &|key| key.as_bytes() == b"c").expect("lists");
        assert_eq!(wanted.items.len(), 1);
    });
}

#[test]
fn a_slot_is_read_in_pages_bounded_by_bytes() {
    run(async {
        let store = World::default().open();
        let slot = Slot::new(9).expect("below 4096");
        for number in 0..10 {
            let mut one = placed("data", &format!("k{number}"), live(1, vec![7; 100]));
            one.slot = slot;
            store.commit(WriteSet::of(vec![one])).await.expect("commits");
        }
        store.commit(put("elsewhere", 1, "v")).await.expect("commits");
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.scan_slot(slot, after.as_ref(), 300).expect("scans");
            assert!((1..=3).contains(&page.entries.len()) || page.next.is_none());
            seen.extend(page.entries.into_iter().map(|entry| entry.key.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..10).map(|number| format!("k{number}")).collect::<Vec<_>>());
        assert_eq!(store.slot_totals(slot).keys, 10);
        assert_eq!(store.drop_slot(slot).await, Ok(10));
        assert_eq!((store.slot_totals(slot).keys, store.stats().keys), (0, 1));
        assert_eq!(store.get(slot, &ns("data"), Kind::Value, b"k1"), Ok(None));
    });
}

fn keep(key: &RequestKey, answer: &'static str, until: u64) -> KeptAnswer {
    KeptAnswer { key: key.clone(), until: WallMicros(until), body: Bytes::from_static(answer.as_bytes()), counted: false }
}

#[test]
fn a_repeated_request_applies_once_and_gets_the_first_answer() {
    run(async {
        let world = World::default();
        let store = world.open();
        let request = RequestKey::new("client/1").expect("a request key");
        let set = |hlc, answer: &'static str| WriteSet { answers: vec![keep(&request, answer, 1000)], ..put("k", hlc, answer) };
        assert_eq!(store.commit(set(1, "first")).await.expect("commits").earlier, None);
        let repeat = store.commit(set(2, "second")).await.expect("commits");
        assert_eq!((repeat.earlier, repeat.outcomes.len()), (Some(Bytes::from_static(b"first")), 0));
        assert_eq!(read(&store, "data", "k"), Some(live(1, "first")));
        assert_eq!(store.answer(&request), Ok(Some(Bytes::from_static(b"first"))));
        world.wall.store(1000, Ordering::Relaxed);
        assert_eq!(store.answer(&request), Ok(None), "expired");
        assert_eq!(store.commit(set(2, "second")).await.expect("commits").earlier, None);
    });
}

#[test]
fn answers_are_bounded_in_number_and_pruned_when_they_expire() {
    run(async {
        let world = World::default();
        let mut options = world.options();
        options.answers_max = 10;
        let store = world.open_with(options);
        let keep_one = |number: u64| WriteSet {
            answers: vec![keep(&RequestKey::new(format!("r{number}")).expect("a request key"), "a", 1000 + number)],
            ..WriteSet::default()
        };
        for number in 0..30 {
            store.commit(keep_one(number)).await.expect("commits");
        }
        assert_eq!(store.stats().answers, 10);
        assert_eq!(store.answer(&RequestKey::new("r3").expect("a request key")), Ok(None));
        world.wall.store(2000, Ordering::Relaxed);
        store.commit(put("k", 1, "v")).await.expect("commits");
        assert_eq!((store.stats().answers, store.stats().answers_bytes), (0, 0));
    });
}

#[test]
fn facts_are_durable_and_can_be_removed() {
    run(async {
        let world = World::default();
        let store = world.open();
        const INCARNATION: FactKey = FactKey::fixed("incarnation");
        store.commit(WriteSet::fact(INCARNATION, Bytes::from_static(b"4"))).await.expect("commits");
        world.disk.crash(1);
        drop(store);
        let store = world.open();
        assert_eq!(store.fact(&INCARNATION), Ok(Some(Bytes::from_static(b"4"))));
        store.commit(WriteSet { facts: vec![(INCARNATION, None)], ..WriteSet::default() }).await.expect("commits");
        assert_eq!(store.fact(&INCARNATION), Ok(None));
    });
}

#[test]
fn a_relaxed_write_is_readable_at_once_and_synced_soon() {
    run(async {
        let world = World::default();
        let store = world.open();
        let syncs = world.disk.syncs();
        let set = WriteSet { durability: Durability::Relaxed, ..WriteSet::of(vec![placed("cache", "k", live(1, "v"))]) };
        store.commit(set).await.expect("commits");
        assert_eq!(read(&store, "cache", "k"), Some(live(1, "v")));
        assert_eq!(world.disk.syncs(), syncs, "answered before any sync");
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert!(world.disk.syncs() > syncs, "synced within the interval");
        world.disk.crash(3);
        drop(store);
        assert_eq!(read(&world.open(), "cache", "k"), Some(live(1, "v")));
    });
}

#[test]
fn e11_the_oldest_evictable_records_go_and_durable_ones_never() {
    run(async {
        let world = World::default();
        let mut options = world.options();
        (options.disk_bytes_max, options.evictable_bytes_max) = (1 << 20, 64 << 10);
        let store = world.open_with(options);
        store.commit(put("durable", 1, vec![1; 1000])).await.expect("commits");
        for number in 0..500 {
            store.commit(WriteSet::of(vec![placed("cache", &format!("k{number}"), live(1, vec![2; 1000]))])).await.expect("commits");
            assert!(store.stats().evictable_bytes <= 64 << 10);
        }
        assert_eq!(read(&store, "cache", "k0"), None);
        assert!(read(&store, "cache", "k499").is_some());
        assert!(read(&store, "data", "durable").is_some());
        assert!(store.stats().evicted > 400 && store.stats().evictable_keys > 40);
        let huge = WriteSet::of(vec![placed("cache", "huge", live(1, vec![0; 70 << 10]))]);
        assert!(matches!(store.commit(huge).await, Err(WriteError::Full(_))));
    });
}

#[test]
fn e11_a_durable_write_beyond_the_budget_is_refused_and_deletes_make_room() {
    run(async {
        let world = World::default();
        let mut options = world.options();
        (options.disk_bytes_max, options.evictable_bytes_max) = (128 << 10, 64 << 10);
        let store = world.open_with(options);
        let mut stored = 0;
        while let Ok(done) = store.commit(put(&format!("k{stored}"), 1, vec![1; 1000])).await {
            assert!(done.outcomes[0].taken);
            stored += 1;
        }
        assert!((50..=64).contains(&stored), "{stored}");
        let refused = store.commit(put("more", 1, vec![1; 1000])).await;
        assert!(matches!(&refused, Err(error @ WriteError::Full(_)) if error.is_unapplied()));
        assert_eq!(read(&store, "data", "more"), None);
        assert!(read(&store, "data", "k0").is_some(), "reads go on");
        store.commit(put("k0", 2, vec![2; 900])).await.expect("a smaller value in place of a larger one fits");
        store.commit(delete("k1", 2)).await.expect("a delete fits");
        store.commit(delete("k2", 2)).await.expect("a delete fits");
        store.commit(put("more", 1, vec![1; 1000])).await.expect("and makes room");
        assert!(store.stats().refused_full >= 2);
    });
}

#[test]
fn a_full_disk_refuses_writes_reads_go_on_and_writes_come_back_with_room() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.commit(put("k", 1, vec![1; 1000])).await.expect("commits");
        world.disk.set_capacity(Some(world.disk.used_bytes() + (64 << 10)));
        let mut stored = 0;
        let refused = loop {
            match store.commit(put(&format!("k{stored}"), 1, vec![1; 4000])).await {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, WriteError::Full(_)), "{refused:?}");
        for number in 0..stored {
            assert!(read(&store, "data", &format!("k{number}")).is_some(), "k{number} of {stored} is read while the disk is full");
        }
        assert_eq!(read(&store, "data", &format!("k{stored}")), None, "nothing of the refused write was applied");
        assert!(matches!(store.commit(put("again", 1, vec![1; 100_000])).await, Err(WriteError::Full(_))));
        world.disk.set_capacity(None);
        store.commit(put("again", 1, vec![1; 4000])).await.expect("there is room again");
        assert_eq!(store.stats().keys, stored + 2);
        assert!(world.fatal.lock().expect("not poisoned").is_empty());
    });
}

#[test]
fn after_the_disk_was_full_it_is_left_alone_for_a_while() {
    run(async {
        let world = World::default();
        let mut options = world.options();
        options.full_retry = Duration::from_millis(200);
        let store = world.open_with(options);
        world.disk.set_capacity(Some(world.disk.used_bytes()));
        assert!(matches!(store.commit(put("k", 1, vec![1; 1_000_000])).await, Err(WriteError::Full(_))));
        world.disk.set_capacity(None);
        assert!(matches!(store.commit(put("k", 1, "v")).await, Err(WriteError::Full(_))));
        tokio::time::sleep(Duration::from_millis(250)).await;
        store.commit(put("k", 1, "v")).await.expect("tried again");
    });
}

/// What was unsynced goes when the disk is opened again, but peers may have been sent it by its place in the log, and have acknowledged that place.
#[test]
fn e5_a_place_in_the_log_is_not_given_out_again_after_a_full_disk() {
    run(async {
        let world = World::default();
        let mut options = world.options();
        options.full_retry = Duration::from_millis(10);
        options.sync_interval = Duration::from_secs(10);
        let store = world.open_with(options);
        let logged = |text: &str, durability| WriteSet { log: true, durability, ..put(text, 1, "v") };
        let first = store.commit(logged("a", Durability::Relaxed)).await.expect("commits").outcomes[0].logged;
        world.disk.set_capacity(Some(world.disk.used_bytes()));
        assert!(matches!(store.commit(put("k", 1, vec![1; 1_000_000])).await, Err(WriteError::Full(_))));
        world.disk.set_capacity(None);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let second = store.commit(logged("b", Durability::AtOnce)).await.expect("tried again").outcomes[0].logged;
        assert!(first.is_some() && second > first, "{first:?} {second:?}");
    });
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_is_fatal() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.commit(put("k", 1, "v")).await.expect("commits");
        world.disk.fail_syncs(1);
        let refused = store.commit(put("l", 1, "v")).await;
        assert!(matches!(&refused, Err(error @ WriteError::Failed(_)) if !error.is_unapplied()), "{refused:?}");
        assert_eq!(world.fatal.lock().expect("not poisoned").len(), 1);
        assert!(matches!(store.commit(put("m", 1, "v")).await, Err(WriteError::Failed(_))), "and stays so");
        assert_eq!(world.fatal.lock().expect("not poisoned").len(), 1, "told once");
        assert_eq!(read(&store, "data", "l"), None, "what was not acknowledged is not shown");
    });
}

#[test]
fn a_corrupt_record_is_an_error_that_names_it_and_other_keys_stay_readable() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.commit(put("good", 1, "a value that is fine")).await.expect("commits");
        store.commit(put("bad", 1, "a value to be damaged")).await.expect("commits");
        store.close().await;
        assert!(world.disk.corrupt(b"a value to be damaged") > 0);
        let store = world.open();
        let refused = store.get(slot_of(b"bad"), &ns("data"), Kind::Value, b"bad");
        assert_eq!(refused, Err(ReadError::Corrupt { ns: ns("data"), kind: Kind::Value, key: key("bad") }));
        assert_eq!(read(&store, "data", "good"), Some(live(1, "a value that is fine")));
        assert_eq!(store.list(&ns("data"), Kind::Value, b"", None, 10, &|_| true).expect("lists").items.len(), 1);
        assert!(store.stats().corrupt >= 2);
        store.commit(put("bad", 1, "sent by a peer")).await.expect("a write replaces it");
        assert_eq!(read(&store, "data", "bad"), Some(live(1, "sent by a peer")));
    });
}

#[test]
fn a_queue_that_is_full_says_busy() {
    run(async {
        let world = World::default();
        let mut options = world.options();
        options.queue_max = 4;
        let store = world.open_with(options);
        let writes = (0..10).map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(put(&format!("k{number}"), 1, "v")).await })
        });
        let writes: Vec<_> = writes.collect();
        let mut busy = 0;
        for write in writes {
            busy += u32::from(write.await.expect("runs") == Err(WriteError::Busy));
        }
        assert_eq!(busy, 6);
    });
}

#[test]
fn bytes_that_wait_are_bounded_too() {
    run(async {
        let world = World::default();
        let mut options = world.options();
        options.queue_bytes_max = 10_000;
        let store = world.open_with(options);
        let write = |text: &'static str, bytes| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(put(text, 1, vec![0; bytes])).await })
        };
        let (large, small) = (write("large", 20_000), write("small", 1));
        assert_eq!(small.await.expect("runs"), Err(WriteError::Busy));
        large.await.expect("runs").expect("a write alone in the queue is let in");
        store.commit(put("small", 1, "v")).await.expect("room again");
    });
}

#[test]
fn on_a_file_and_a_thread_it_is_the_same_store_after_a_restart() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.redb");
        let mut options = World::default().options();
        options.driver = Driver::Thread;
        let store = Store::open(Medium::File(path.clone()), options.clone()).expect("opens");
        store.commit(put("k", 1, "v")).await.expect("commits");
        let second = Store::open(Medium::File(path.clone()), options.clone());
        assert!(matches!(second.err(), Some(OpenError::InUse { .. })));
        let before = store.stats();
        store.close().await;
        let store = Store::open(Medium::File(path), options).expect("opens again");
        assert_eq!(read(&store, "data", "k"), Some(live(1, "v")));
        let after = store.stats();
        assert_eq!((after.keys, after.bytes), (before.keys, before.bytes));
        store.close().await;
    });
}

#[test]
fn a_file_that_is_no_store_is_refused_by_name() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.redb");
        std::fs::write(&path, vec![42; 100_000]).expect("writes");
        let mut options = World::default().options();
        options.driver = Driver::Thread;
        let Err(error) = Store::open(Medium::File(path), options) else { panic!("a store of garbage") };
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("store.redb"));
    });
}

#[test]
fn a_store_of_an_unknown_format_is_refused_with_both_formats() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.redb");
        let database = redb::Database::create(&path).expect("creates");
        let write = database.begin_write().expect("begins");
        let meta: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
        write.open_table(meta).expect("opens").insert("format", 99_u32.to_le_bytes().as_slice()).expect("writes");
        write.commit().expect("commits");
        drop(database);
        let Err(error) = Store::open(Medium::File(path), World::default().options()) else { panic!("an unknown format was opened") };
        assert!(matches!(error, OpenError::UnknownFormat { found: 99, supported: 1, .. }), "{error}");
    });
}

#[test]
fn a_slow_disk_delays_the_answer_and_not_the_readers() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.commit(put("k", 1, "v")).await.expect("commits");
        world.disk.slow_syncs(Duration::from_millis(60));
        let (slow, started) = (store.clone(), std::time::Instant::now());
        let write = tokio::spawn(async move { slow.commit(put("l", 1, "v")).await });
        tokio::task::yield_now().await;
        assert!(read(&store, "data", "k").is_some() && started.elapsed() < Duration::from_millis(50));
        write.await.expect("runs").expect("commits");
        assert!(started.elapsed() >= Duration::from_millis(60));
    });
}

#[test]
fn an_operation_of_the_log_that_is_damaged_is_left_out_and_counted() {
    run(async {
        let world = World::default();
        let store = world.open();
        for text in ["key-one", "key-two"] {
            store.commit(WriteSet { log: true, ..put(text, 1, "v") }).await.expect("commits");
        }
        store.close().await;
        world.disk.corrupt(b"\x04data\x07key-one");
        let store = world.open();
        let left: Vec<u64> = store.log_after(Sequence(0), 10).expect("reads").operations.iter().map(|o| o.sequence.0).collect();
        assert_eq!((left, store.stats().corrupt), (vec![2], 1));
    });
}

#[test]
fn after_the_close_everything_is_refused() {
    run(async {
        let store = World::default().open();
        let other = store.clone();
        store.commit(put("k", 1, "v")).await.expect("commits");
        store.close().await;
        assert_eq!(other.commit(put("k", 2, "v")).await, Err(WriteError::Closed));
        assert_eq!(other.get(slot_of(b"k"), &ns("data"), Kind::Value, b"k"), Err(ReadError::Closed));
    });
}
