//! Every table and index of the strong store says what a plain model says, whatever is written (Q14h, Q16).

mod strong_support;

use std::collections::BTreeMap;
use std::time::Duration;

use isochrone_ident::{Slot, WallMicros};
use isochrone_quorum::{KeyName, KeyState, Place, Row, SlotState, View};
use isochrone_store::{Expiring, StrongStore};
use proptest::prelude::*;
use strong_support::{World, keys, live, name_in, promise, run, slot, slot_of, slot_state, tombstone};

/// What a strong store should hold.
#[derive(Debug, Default)]
struct Model {
    slots: BTreeMap<Slot, SlotState>,
    keys: BTreeMap<(Slot, KeyName), KeyState>,
}

impl Model {
    fn apply(&mut self, row: &Row) {
        match row {
            Row::Slot(slot, state) => drop(self.slots.insert(*slot, *state)),
            Row::Key(slot, name, state) => drop(self.keys.insert((*slot, name.clone()), state.clone())),
            Row::Erase(slot, name) => drop(self.keys.remove(&(*slot, name.clone()))),
            Row::Wipe(slot) => self.keys.retain(|(held, _), _| held != slot),
        }
    }

    fn of_slot(&self, slot: Slot) -> Vec<(KeyName, KeyState)> {
        self.keys.iter().filter(|((held, _), _)| *held == slot).map(|((_, name), state)| (name.clone(), state.clone())).collect()
    }

    /// What is shown at once.
    fn check(&self, store: &StrongStore) {
        for number in 0..5 {
            let slot = slot(number);
            let held = self.of_slot(slot);
            assert_eq!((store.slot(slot), keys(store, slot, None, 1000)), (self.slots.get(&slot).copied(), held.clone()));
            let second: Vec<_> = held.iter().skip(1).take(2).cloned().collect();
            assert_eq!(keys(store, slot, held.first().map(|(name, _)| name), 2), second);
            held.iter().for_each(|(name, state)| assert_eq!(store.key(slot, name).as_ref(), Some(state)));
        }
        self.check_names(store);
        assert!(!store.is_failed(), "{:?}", store.failure());
    }

    /// What is shown once the tables have taken over.
    fn check_tables(&self, store: &StrongStore) {
        self.check(store);
        for number in 0..5 {
            let slot = slot(number);
            let held = self.of_slot(slot);
            let dead: Vec<KeyName> = held.iter().filter(|(_, state)| !is_live(state)).map(|(name, _)| name.clone()).collect();
            let totals = store.slot_totals(slot);
            assert_eq!((totals.keys, totals.dead), (held.len() as u64, dead.len() as u64));
            assert_eq!(totals.bytes == 0, held.is_empty());
            assert_eq!(store.dead(slot, dead.first(), 1000), Ok(dead.iter().skip(1).cloned().collect()));
            assert_eq!(store.dead(slot, None, 1000), Ok(dead));
        }
        self.check_expiry(store);
        assert_eq!(store.stats().keys, self.keys.len() as u64);
    }

    fn check_expiry(&self, store: &StrongStore) {
        let expires = |state: &KeyState| expiry_of(state).filter(|at| at.0 <= 20);
        let mut expired: Vec<Expiring> = self
            .keys
            .iter()
            .filter_map(|((slot, name), state)| expires(state).map(|at| Expiring { at, slot: *slot, name: name.clone() }))
            .collect();
        expired.sort();
        assert_eq!(store.expired(WallMicros(20), None, 1000), Ok(expired.clone()));
        assert_eq!(store.expired(WallMicros(20), expired.first(), 1000), Ok(expired.into_iter().skip(1).collect()));
    }

    fn check_names(&self, store: &StrongStore) {
        for namespace in ["data", "data-2"] {
            let mut names: Vec<(&KeyName, Slot)> =
                self.keys.keys().filter(|(_, name)| name.namespace.as_str() == namespace).map(|(slot, name)| (name, *slot)).collect();
            names.sort();
            let mut after = None;
            let mut listed = Vec::new();
            loop {
                let after_bytes = after.as_ref().map(|key: &isochrone_ident::Key| key.as_bytes());
                let page = store.list(&name_in(namespace, "k").namespace, b"k", after_bytes, 3, &|_| true).expect("lists");
                listed.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(listed.iter().map(|item| (&item.name, item.slot)).collect::<Vec<_>>(), names);
            for item in &listed {
                let state = &self.keys[&(item.slot, item.name.clone())];
                let expected = (state.ballot(), is_live(state), expiry_of(state));
                assert_eq!((item.ballot, item.is_live, item.expires), expected);
            }
        }
    }
}

fn value_of(state: &KeyState) -> Option<&isochrone_quorum::Value> {
    match &state.accepted.as_ref()?.envelope.content {
        isochrone_quorum::Content::Live(value) => Some(value),
        isochrone_quorum::Content::Tombstone => None,
    }
}

fn is_live(state: &KeyState) -> bool {
    value_of(state).is_some()
}

fn expiry_of(state: &KeyState) -> Option<WallMicros> {
    value_of(state).and_then(|value| value.expires)
}

fn rows() -> impl Strategy<Value = Row> {
    let key = (any::<bool>(), 0..12u8).prop_map(|(second, number)| name_in(if second { "data-2" } else { "data" }, &format!("k{number}")));
    let place = |name: KeyName| (slot_of(&format!("{name:?}")), name);
    let state = prop_oneof![
        (1..99u64, 0..300usize, proptest::option::of(0..40u64)).prop_map(|(at, bytes, expires)| live(at, vec![1; bytes], expires)),
        (1..99u64).prop_map(tombstone),
        (1..99u64).prop_map(promise),
    ];
    prop_oneof![
        12 => (key.clone().prop_map(place), state).prop_map(|((slot, name), state)| Row::Key(slot, name, state)),
        4 => key.prop_map(place).prop_map(|(slot, name)| Row::Erase(slot, name)),
        1 => (0..5u16).prop_map(|number| Row::Wipe(slot(number))),
        1 => (0..5u16, 0..9u64, 0..9u64).prop_map(|(number, phase, floor)| Row::Slot(slot(number), slot_state(phase, floor))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_written_all_tables_say_what_a_plain_model_says(
        writes in prop::collection::vec((prop::collection::vec(rows(), 1..8), 0..4u8), 1..25),
    ) {
        run(async {
            let world = World::default();
            let (mut store, mut model, mut place) = (world.open(), Model::default(), 0);
            for (rows, look) in writes {
                place += 1;
                rows.iter().for_each(|row| model.apply(row));
                store.write(Place(place), rows);
                if look > 0 {
                    world.synced(place).await;
                    model.check(&store);
                }
                if look > 2 {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    model.check_tables(&store);
                }
            }
            world.synced(place).await;
            model.check(&store);
            let after_a_crash = World { disk: world.disk.after_power_loss(place), ..World::default() };
            model.check_tables(&after_a_crash.open());
            store.close().await;
            store = world.open();
            model.check_tables(&store);
        });
    }
}
