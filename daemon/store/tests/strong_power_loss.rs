//! Q3: what was told to be synced survives any loss of power, groups are whole, and nothing is there without what came before it.

mod strong_support;

use std::collections::BTreeMap;
use std::time::Duration;

use isochrone_ident::Slot;
use isochrone_quorum::{KeyName, KeyState, Place, Row, SlotState};
use isochrone_store::{StrongOptions, StrongStore};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use strong_support::{World, keys, live, name, promise, run, slot, slot_of, slot_state, tombstone};

const CASES: u64 = 100;
const KEYS: u64 = 16;

type Held = (BTreeMap<Slot, SlotState>, BTreeMap<KeyName, KeyState>);

struct Case {
    random: StdRng,
    /// What was written since the last opening, in order.
    writes: Vec<Vec<Row>>,
    /// What was there at the last opening.
    base: Held,
    counter: u64,
}

fn apply(held: &mut Held, row: &Row) {
    match row {
        Row::Slot(slot, state) => drop(held.0.insert(*slot, *state)),
        Row::Key(_, name, state) => drop(held.1.insert(name.clone(), state.clone())),
        Row::Erase(_, name) => drop(held.1.remove(name)),
        Row::Wipe(slot) => held.1.retain(|name, _| slot_of(&name.key.to_string()) != *slot),
    }
}

fn held(store: &StrongStore) -> Held {
    let keys = (0..5).flat_map(|number| keys(store, slot(number), None, 1000)).collect();
    (store.slots_held().into_iter().collect(), keys)
}

impl Case {
    fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), writes: Vec::new(), base: Held::default(), counter: 0 }
    }

    fn row(&mut self) -> Row {
        self.counter += 1;
        let text = format!("k{}", self.random.random_range(0..KEYS));
        let (at, place) = (slot_of(&text), self.counter);
        match self.random.random_range(0..20) {
            0 => Row::Wipe(at),
            1..3 => Row::Slot(at, slot_state(2, place)),
            3..5 => Row::Erase(at, name(&text)),
            5..8 => Row::Key(at, name(&text), promise(place)),
            8..10 => Row::Key(at, name(&text), tombstone(place)),
            10 => Row::Key(at, name(&text), live(place, vec![3; 20_000], None)),
            _ => Row::Key(at, name(&text), live(place, vec![4; self.random.random_range(0..500)], Some(place))),
        }
    }

    /// Writes until the power goes. Gives the place that was told last.
    async fn write_until_dark(&mut self, world: &World, store: &StrongStore) -> Place {
        while !world.disk.is_off() {
            for _ in 0..self.random.random_range(1..6) {
                let rows: Vec<Row> = (0..self.random.random_range(1..4)).map(|_| self.row()).collect();
                self.writes.push(rows.clone());
                store.write(Place(self.writes.len() as u64), rows);
            }
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..3))).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.told()
    }

    /// Checks that what is there is what some number of writes leaves, of all that were told at least, and takes it for the next life.
    fn check(&mut self, store: &StrongStore, told: Place) {
        let found = held(store);
        let mut expected = std::mem::take(&mut self.base);
        let mut is_found = found == expected && told == Place(0);
        for (place, rows) in (1..).zip(std::mem::take(&mut self.writes)) {
            rows.iter().for_each(|row| apply(&mut expected, row));
            is_found |= Place(place) >= told && found == expected;
        }
        assert!(is_found, "what is there is no prefix of what was written that holds what was told");
        let dead: usize = (0..5).map(|number| store.dead(slot(number), None, 1000).expect("reads").len()).sum();
        let listed = store.list(&name("k").namespace, b"", None, 1000, &|_| true).expect("lists").items;
        let stats = store.stats();
        assert_eq!((stats.keys, stats.dead), (found.1.len() as u64, dead as u64));
        assert_eq!(listed.iter().map(|item| &item.name).collect::<Vec<_>>(), found.1.keys().collect::<Vec<_>>());
        self.base = found;
    }
}

fn options(world: &World) -> StrongOptions {
    let settle_interval = Duration::from_millis(4);
    StrongOptions { memory_bytes_max: 1 << 20, group_rows_max: 6, round_bytes_max: 40 << 10, settle_interval, ..world.options() }
}

/// Several lives of one disk, each ended by a loss of power at a random operation.
async fn run_case(seed: u64) {
    let mut world = World::default();
    let mut case = Case::new(seed);
    for life in 0..4 {
        let store = world.open_with(options(&world));
        case.check(&store, world.told());
        world.told = std::sync::Arc::default();
        drop(store);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let store = world.open_with(options(&world));
        world.disk.power_off_after(case.random.random_range(1..120));
        case.write_until_dark(&world, &store).await;
        world.disk.crash(seed * 31 + life);
        drop(store);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    case.check(&world.open_with(options(&world)), world.told());
}

#[test]
fn q3_what_was_told_survives_and_what_is_there_is_a_prefix_of_what_was_written() {
    for seed in 0..CASES {
        run(run_case(seed));
    }
}

#[test]
fn a_disk_that_loses_what_was_synced_would_be_noticed() {
    let lost = std::panic::catch_unwind(|| {
        run(async {
            let mut case = Case::new(1);
            let world = World::default();
            let store = world.open_with(options(&world));
            world.disk.power_off_after(90);
            let told = case.write_until_dark(&world, &store).await;
            assert!(told > Place(0));
            case.check(&World::default().open(), told);
        });
    });
    assert!(lost.is_err(), "the check has something to catch");
}
