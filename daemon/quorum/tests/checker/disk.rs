//! What an acceptor tells while its disk is behind, and how it lists what it holds (Q3, Q14c).

use isochrone_ident::StoreId;
use isochrone_quorum::{
    Acceptor, AcceptorOptions, Answer, Ask, Configuration, Content, KeyName, Place, Request, Row, TableHash, Tag, Told, Value,
};

use crate::bench::{ballot, live, member, record};
use crate::node::member_of;
use crate::support::Disk;
use crate::world::{key, slot};

/// One acceptor, and a disk that syncs when a test says so.
struct Slow {
    disk: Disk,
    acceptor: Acceptor<u32>,
    configuration: Configuration,
    pending: Vec<(Place, Vec<Row>)>,
    asked: u32,
}

impl Slow {
    fn new(options: AcceptorOptions) -> Self {
        let acceptor = Acceptor::new(member_of(0, StoreId(1)), options);
        let configuration = Configuration::first(slot(), TableHash(1), (0..3).map(member));
        Self { disk: Disk::default(), acceptor, configuration, pending: Vec::new(), asked: 0 }
    }

    /// Asks, as number `asked`; what it says at once.
    fn ask(&mut self, ask: Ask) -> Option<Told> {
        self.asked += 1;
        let request = Request { scope: self.configuration.scope(), tag: Tag::default(), ask };
        let effects = self.acceptor.take(&self.disk, Some(&self.configuration), self.asked, request);
        self.pending.extend(effects.place.map(|place| (place, effects.rows)));
        effects.answers.into_iter().next().map(|(_, answer)| answer.told)
    }

    /// The disk syncs its oldest group; who is answered by that.
    fn sync(&mut self) -> Vec<(u32, Answer)> {
        let (place, rows) = self.pending.remove(0);
        rows.into_iter().for_each(|row| self.disk.apply(row));
        self.acceptor.synced(place)
    }

    fn put(&mut self, number: u64, counter: u64, content: Content) -> Option<Told> {
        let record = record(ballot(counter, 1), content);
        self.ask(Ask::Accept { key: key(number), record, next: None })
    }

    /// All pages of a listing, what is not synced included.
    fn list(&mut self) -> Vec<Vec<KeyName>> {
        let mut pages: Vec<Vec<KeyName>> = Vec::new();
        loop {
            let after = pages.last().and_then(|page| page.last()).cloned();
            let told = match self.ask(Ask::List { after }) {
                Some(told) => told,
                None => {
                    let mut answers = Vec::new();
                    while !self.pending.is_empty() {
                        answers.extend(self.sync());
                    }
                    answers.pop().expect("all is synced").1.told
                }
            };
            let Told::Page { keys, more, .. } = told else { panic!("{told:?}") };
            pages.push(keys.into_iter().map(|(key, _)| key).collect());
            if !more {
                return pages;
            }
        }
    }
}

fn numbers(answered: &[(u32, Answer)]) -> Vec<u32> {
    answered.iter().map(|(number, _)| *number).collect()
}

#[test]
fn q3_an_answer_waits_for_what_it_has_seen_and_for_nothing_else() {
    let mut slow = Slow::new(AcceptorOptions::default());
    slow.ask(Ask::Seal);
    slow.sync();
    assert_eq!(slow.put(1, 2, live(1)), None);
    assert_eq!(slow.put(2, 2, live(2)), None);
    assert_eq!(slow.ask(Ask::Read { key: key(1) }), None, "it has seen what is not synced");
    assert!(matches!(slow.ask(Ask::Read { key: key(3) }), Some(Told::Shown { .. })), "it has seen nothing of the kind");
    assert_eq!(slow.acceptor.held(), 3);
    assert_eq!(numbers(&slow.sync()), [2, 4], "the read of the first key does not wait for the second");
    assert_eq!(numbers(&slow.sync()), [3]);
    assert_eq!(slow.acceptor.held(), 0);
    assert!(matches!(slow.ask(Ask::Read { key: key(1) }), Some(Told::Shown { .. })));
}

#[test]
fn q3_a_key_that_was_written_again_is_not_synced_by_its_first_group() {
    let mut slow = Slow::new(AcceptorOptions::default());
    slow.put(1, 2, live(1));
    slow.put(1, 4, live(2));
    slow.sync();
    assert_eq!(slow.ask(Ask::Read { key: key(1) }), None);
    assert_eq!(numbers(&slow.sync()), [2, 3]);
}

#[test]
fn q14_c_pages_are_bounded_in_bytes_and_hold_one_key_at_least() {
    let large = |kib: usize| Content::Live(Value { bytes: vec![7; kib << 10].into(), ..crate::bench::value(1) });
    let mut slow = Slow::new(AcceptorOptions { page_keys: 100, page_bytes: 10 << 10, ..AcceptorOptions::default() });
    for (number, kib) in [(1, 4), (2, 4), (3, 4), (4, 50), (5, 1), (6, 1)] {
        slow.put(number, 2, large(kib));
    }
    let expected = [vec![key(1), key(2)], vec![key(3)], vec![key(4)], vec![key(5), key(6)]];
    assert_eq!(slow.list(), expected, "nothing of it is synced at first");
    assert_eq!(slow.list(), expected, "everything is synced");
}

#[test]
fn q14_c_a_listing_shows_what_is_synced_and_what_is_not_as_one() {
    let mut slow = Slow::new(AcceptorOptions { page_keys: 2, ..AcceptorOptions::default() });
    for number in [1, 3, 5, 7] {
        slow.put(number, 2, if number == 3 { Content::Tombstone } else { live(1) });
    }
    while !slow.pending.is_empty() {
        slow.sync();
    }
    slow.put(0, 2, live(1));
    slow.put(5, 4, live(2));
    slow.ask(Ask::SetFloor { floor: 2 });
    slow.ask(Ask::Erase { key: key(3), ballot: ballot(2, 1), floor: 2 });
    slow.put(9, 4, live(1));
    assert_eq!(slow.list(), [vec![key(0), key(1)], vec![key(5), key(7)], vec![key(9)]]);
}
