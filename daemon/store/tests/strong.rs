//! The strong store's behaviour on a disk that keeps its power.

mod strong_support;

use std::time::Duration;

use isochrone_ident::{NodeId, StoreId, WallMicros};
use isochrone_quorum::{KeyName, Member, Place, Row, View};
use isochrone_store::{Driver, Medium, OpenError, StrongOptions, StrongStore};
use strong_support::{ME, World, ballot, keys, live, name, promise, run, slot, slot_of, slot_state, tombstone};

/// Waits, in virtual time, until the tables have all that was written.
async fn settled() {
    tokio::time::sleep(Duration::from_secs(20)).await;
}

fn put(text: &str, counter: u64) -> Row {
    Row::Key(slot_of(text), name(text), live(counter, text.to_owned(), None))
}

#[test]
fn q3_what_was_written_is_shown_once_it_is_told() {
    run(async {
        let world = World::default();
        let store = world.open();
        assert!(store.is_new());
        store.write(Place(1), vec![Row::Slot(slot(3), slot_state(4, 9)), put("a", 1)]);
        store.write(Place(2), vec![put("b", 2)]);
        assert_eq!((world.told(), store.key(slot_of("a"), &name("a"))), (Place(0), None));
        world.synced(2).await;
        assert_eq!(store.slot(slot(3)), Some(slot_state(4, 9)));
        assert_eq!(store.key(slot_of("b"), &name("b")), Some(live(2, "b", None)));
        assert_eq!(store.slots_held(), vec![(slot(3), slot_state(4, 9))]);
        assert_eq!(*world.told.lock().expect("not poisoned"), vec![Place(2)], "one group, told once");
    });
}

#[test]
fn q3_nothing_is_told_before_its_sync_has_taken_its_time() {
    run(async {
        let world = World::default();
        let driver = Driver::Task { sync_latency: Duration::from_millis(5) };
        let store = world.open_with(StrongOptions { driver, ..world.options() });
        store.write(Place(1), vec![put("a", 1)]);
        tokio::time::sleep(Duration::from_millis(4)).await;
        assert_eq!(world.told(), Place(0));
        store.write(Place(2), vec![put("b", 1)]);
        store.write(Place(3), vec![put("c", 1)]);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(world.told(), Place(1));
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(*world.told.lock().expect("not poisoned"), vec![Place(1), Place(3)], "what waited shared a sync");
    });
}

#[test]
fn what_was_told_is_there_after_opening_again() {
    run(async {
        let world = World::default();
        let store = world.open();
        let rows = vec![Row::Slot(slot(3), slot_state(4, 9)), put("a", 1), Row::Key(slot_of("p"), name("p"), promise(7))];
        store.write(Place(1), rows);
        store.close().await;
        assert_eq!(world.told(), Place(1), "closing commits what waits");
        let store = world.open();
        assert!(!store.is_new());
        assert_eq!(store.slot(slot(3)), Some(slot_state(4, 9)));
        assert_eq!(store.key(slot_of("a"), &name("a")), Some(live(1, "a", None)));
        assert_eq!(store.key(slot_of("p"), &name("p")), Some(promise(7)));
        assert_eq!((store.stats().keys, store.stats().dead), (2, 1));
    });
}

#[test]
fn q15_the_store_of_another_member_is_refused() {
    run(async {
        let world = World::default();
        world.open().close().await;
        for other in [Member { node: NodeId(9), ..ME }, Member { store: StoreId(9), ..ME }] {
            let refused = StrongStore::open(Medium::Simulated(world.disk.clone()), other, world.options());
            assert!(matches!(refused.map(drop), Err(OpenError::Foreign { .. })));
        }
        world.open();
    });
}

#[test]
fn q3_after_a_failed_sync_nothing_is_told_any_more() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.write(Place(1), vec![put("a", 1)]);
        world.synced(1).await;
        world.disk.fail_syncs(1);
        store.write(Place(2), vec![put("b", 1)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.write(Place(3), vec![put("c", 1)]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(world.told(), Place(1));
        assert!(store.is_failed() && !store.has_room() && !store.has_room_to_free());
        let fatal = world.fatal.lock().expect("not poisoned").clone();
        assert_eq!(fatal.len(), 1);
        assert!(fatal[0].contains("failed to sync") && fatal[0].contains("Replace this member"), "{fatal:?}");
    });
}

#[test]
fn a_full_disk_loses_nothing_and_reads_go_on() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.write(Place(1), vec![put("a", 1)]);
        world.synced(1).await;
        world.disk.set_capacity(Some(world.disk.used_bytes()));
        let large = |text: &str| Row::Key(slot_of(text), name(text), live(2, vec![7; 3_000_000], None));
        store.write(Place(2), vec![large("b")]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        store.write(Place(3), vec![large("c"), put("a", 3)]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(store.stats().is_full && !store.has_room() && !store.has_room_to_free() && !store.is_failed());
        assert_eq!(store.stats().queue_rows, 3);
        assert_eq!((world.told(), store.key(slot_of("a"), &name("a"))), (Place(1), Some(live(1, "a", None))));
        world.disk.set_capacity(None);
        world.synced(3).await;
        assert_eq!(store.key(slot_of("a"), &name("a")), Some(live(3, "a", None)));
        assert_eq!(store.key(slot_of("b"), &name("b")), Some(live(2, vec![7; 3_000_000], None)));
        assert!(store.has_room() && !store.stats().is_full && store.stats().queue_rows == 0);
        assert!(world.fatal.lock().expect("not poisoned").is_empty());
    });
}

#[test]
fn a_full_disk_does_not_keep_a_store_from_closing() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.write(Place(1), vec![put("a", 1)]);
        world.synced(1).await;
        world.disk.set_capacity(Some(world.disk.used_bytes()));
        store.write(Place(2), vec![Row::Key(slot_of("b"), name("b"), live(2, vec![7; 3_000_000], None))]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        store.close().await;
        assert_eq!(world.told(), Place(1));
        world.disk.set_capacity(None);
        assert!(world.open().key(slot_of("a"), &name("a")).is_some());
    });
}

#[test]
fn a_full_budget_refuses_values_and_lets_erasures_through() {
    run(async {
        let world = World::default();
        let store = world.open_with(StrongOptions { disk_bytes_max: 10_000, ..world.options() });
        let dead = Row::Key(slot_of("t"), name("t"), tombstone(5));
        store.write(Place(1), vec![Row::Key(slot_of("a"), name("a"), live(1, vec![1; 10_000], None)), dead]);
        world.synced(1).await;
        assert!(!store.has_room() && store.has_room_to_free() && !store.stats().is_full);
        store.write(Place(2), vec![Row::Erase(slot_of("t"), name("t")), Row::Wipe(slot_of("a"))]);
        world.synced(2).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(store.has_room());
    });
}

#[test]
fn the_queue_has_bounds_in_rows_and_in_bytes() {
    run(async {
        let world = World::default();
        let store = world.open_with(StrongOptions { queue_rows_max: 2, queue_bytes_max: 100_000, ..world.options() });
        store.write(Place(1), vec![put("a", 1)]);
        assert!(store.has_room());
        store.write(Place(2), vec![put("b", 1)]);
        assert!(!store.has_room() && !store.has_room_to_free());
        world.synced(2).await;
        assert!(store.has_room());
        store.write(Place(3), vec![Row::Key(slot_of("c"), name("c"), live(1, vec![0; 100_000], None))]);
        assert!(!store.has_room());
        world.synced(3).await;
        assert_eq!((store.stats().queue_rows, store.stats().queue_bytes), (0, 0));
    });
}

#[test]
fn q15_a_row_that_cannot_be_read_is_never_taken_for_an_absent_one() {
    let damaged = |read: fn(&StrongStore)| {
        run(async {
            let world = World::default();
            let store = world.open();
            store.write(Place(1), vec![Row::Key(slot_of("a"), name("a"), live(1, "a long value to be found", None)), put("b", 1)]);
            store.close().await;
            assert!(world.disk.corrupt(b"a long value to be found") > 0);
            let store = world.open();
            assert!(!store.is_failed());
            assert_eq!(store.key(slot_of("b"), &name("b")), Some(live(1, "b", None)));
            read(&store);
            assert!(store.is_failed(), "whoever looks after the call learns it");
            store.write(Place(2), vec![put("c", 1)]);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(world.told(), Place(1), "nothing is told any more");
            let fatal = world.fatal.lock().expect("not poisoned").clone();
            assert!(fatal.len() == 1 && fatal[0].contains("data/a in slot") && fatal[0].contains("Replace this member"), "{fatal:?}");
        });
    };
    damaged(|store| assert_eq!(store.key(slot_of("a"), &name("a")), None));
    damaged(|store| assert_eq!(keys(store, slot_of("a"), None, 10), Vec::new()));
    damaged(|store| drop(store.list(&name("a").namespace, b"", None, 10, &|_| true).expect_err("it can't be listed")));
}

#[test]
fn a_damaged_row_is_not_written_over_as_if_it_had_never_been() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.write(Place(1), vec![Row::Key(slot_of("a"), name("a"), live(1, "a long value to be found", None))]);
        store.close().await;
        assert!(world.disk.corrupt(b"a long value to be found") > 0);
        let store = world.open();
        store.write(Place(2), vec![put("a", 2)]);
        settled().await;
        assert!(store.is_failed());
        store.write(Place(3), vec![put("a", 3)]);
        settled().await;
        assert_eq!(world.told(), Place(2));
    });
}

#[test]
fn q3_an_acknowledged_frame_of_the_log_that_is_not_whole_keeps_the_store_from_opening() {
    run(async {
        for (text, is_told) in [("the first long value", true), ("the last long value", false)] {
            let world = World::default();
            let store = world.open();
            store.write(Place(1), vec![Row::Key(slot_of("a"), name("a"), live(1, "the first long value", None))]);
            world.synced(1).await;
            store.write(Place(2), vec![Row::Key(slot_of("b"), name("b"), live(1, "the last long value", None))]);
            world.synced(2).await;
            let disk = world.disk.after_power_loss(1);
            assert_eq!(disk.corrupt(text.as_bytes()), 1);
            let opened = StrongStore::open(Medium::Simulated(disk), ME, world.options());
            assert_eq!(matches!(opened.as_ref().map(drop), Err(OpenError::Corrupt { .. })), is_told, "{text}");
        }
    });
}

#[test]
fn what_no_half_of_the_log_can_hold_goes_to_the_tables_at_once() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.write(Place(1), vec![put("a", 1)]);
        store.write(Place(2), vec![Row::Key(slot_of("b"), name("b"), live(1, vec![7; 17 << 20], None))]);
        store.write(Place(3), vec![put("c", 1)]);
        world.synced(3).await;
        let disk = world.disk.after_power_loss(1);
        drop(store);
        let store = StrongStore::open(Medium::Simulated(disk), ME, world.options()).expect("opens");
        assert_eq!(store.key(slot_of("b"), &name("b")), Some(live(1, vec![7; 17 << 20], None)));
        assert!(store.key(slot_of("a"), &name("a")).is_some() && store.key(slot_of("c"), &name("c")).is_some());
    });
}

#[test]
fn the_log_goes_on_in_its_other_half_while_the_tables_take_over_the_first() {
    run(async {
        let world = World::default();
        let store = world.open();
        for round in 1..=120 {
            let text = format!("k{}", round % 7);
            store.write(Place(round), vec![Row::Key(slot_of(&text), name(&text), live(round, vec![1; 400_000], None))]);
            world.synced(round).await;
        }
        let disk = world.disk.after_power_loss(1);
        let store = StrongStore::open(Medium::Simulated(disk), ME, world.options()).expect("opens");
        for round in 114..=120 {
            let text = format!("k{}", round % 7);
            assert_eq!(store.key(slot_of(&text), &name(&text)), Some(live(round, vec![1; 400_000], None)));
        }
    });
}

fn names(keys: &[(KeyName, isochrone_quorum::KeyState)]) -> Vec<String> {
    keys.iter().map(|(name, _)| name.key.to_string()).collect()
}

#[test]
fn keys_of_a_slot_come_in_order_page_by_page() {
    run(async {
        let world = World::default();
        let store = world.open();
        let texts = ["k1", "k2", "k3", "k4", "k5"];
        let in_slot = |text: &str, slot| Row::Key(slot, name(text), live(1, text.to_owned(), None));
        store.write(
            Place(1),
            texts.iter().map(|text| in_slot(text, slot(3))).chain([in_slot("k0", slot(2)), in_slot("k6", slot(4))]).collect(),
        );
        world.synced(1).await;
        assert_eq!(names(&keys(&store, slot(3), None, 2)), ["k1", "k2"]);
        assert_eq!(names(&keys(&store, slot(3), Some(&name("k2")), 2)), ["k3", "k4"]);
        assert_eq!(names(&keys(&store, slot(3), Some(&name("k4")), 2)), ["k5"]);
        assert_eq!(names(&keys(&store, slot(3), Some(&name("k5")), 2)), [""; 0]);
    });
}

#[test]
fn q14h_a_wiped_slot_is_empty_at_once_and_its_rows_go_in_pieces() {
    run(async {
        let world = World::default();
        let driver = Driver::Task { sync_latency: Duration::from_millis(5) };
        let store = world.open_with(StrongOptions { driver, ..world.options() });
        let many: Vec<Row> = (0..2000).map(|n| Row::Key(slot(3), name(&format!("k{n}")), tombstone(n + 1))).collect();
        store.write(Place(1), many);
        world.synced(1).await;
        settled().await;
        assert_eq!(store.slot_totals(slot(3)).dead, 2000);
        let back = Row::Key(slot(3), name("k7"), live(1, "back", Some(50)));
        store.write(Place(2), vec![Row::Wipe(slot(3)), back]);
        world.synced(2).await;
        assert_eq!(names(&keys(&store, slot(3), None, 10)), ["k7"]);
        assert_eq!(store.key(slot(3), &name("k8")), None);
        let listed = store.list(&name("k7").namespace, b"", None, 5000, &|_| true).expect("lists");
        assert_eq!(listed.items.len(), 1);
        while store.slot_totals(slot(3)).keys > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(store.stats().stale_keys > 500, "one transaction sweeps a bounded number");
        assert_eq!((store.stats().keys, store.dead(slot(3), None, 10)), (1, Ok(Vec::new())));
        settled().await;
        assert_eq!((store.stats().stale_keys, store.stats().stale_bytes), (0, 0));
        assert_eq!(store.key(slot(3), &name("k7")), Some(live(1, "back", Some(50))));
        assert_eq!(store.expired(WallMicros(50), None, 10).expect("reads").len(), 1);
        assert_eq!(store.list(&name("k7").namespace, b"", None, 5000, &|_| true), Ok(listed));
    });
}

#[test]
fn rows_out_of_order_are_a_bug_that_ends_the_store() {
    run(async {
        let world = World::default();
        let store = world.open();
        store.write(Place(2), vec![put("a", 1)]);
        store.write(Place(2), vec![put("b", 1)]);
        assert!(store.is_failed());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.told(), Place(0));
    });
}

#[test]
fn a_state_that_was_replaced_is_not_shown_from_memory() {
    run(async {
        let world = World::default();
        let store = world.open();
        for round in 1..50 {
            store.write(Place(round), vec![Row::Key(slot(1), name("hot"), promise(round))]);
            world.synced(round).await;
            assert_eq!(store.key(slot(1), &name("hot")).map(|state| state.promised), Some(ballot(round)));
        }
        store.write(Place(50), vec![Row::Erase(slot(1), name("hot"))]);
        world.synced(50).await;
        assert_eq!(store.key(slot(1), &name("hot")), None);
        settled().await;
        assert_eq!((store.key(slot(1), &name("hot")), store.stats().keys), (None, 0));
    });
}
