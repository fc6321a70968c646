//! The memory tier: copies of records that were read, within a hard budget.
//!
//! It holds copies only, never truth: a commit takes the keys that it changed out, and the next read puts them back. The danger is a reader who
//! has fetched a record from the durable tier and puts it in after a commit has replaced it. So the keys are hashed onto stripes, each of
//! which counts commits:
//!
//! ```text
//!   reader                                committer
//!   1. ticket: the stripe's count         a. begin: each stripe is closed to fills; the keys go out
//!   2. reads the durable tier             b. the commit becomes visible to readers of the durable tier
//!   3. fill: only if the stripe is        c. end: each stripe's count rises and it opens again
//!      open and its count is the ticket's
//! ```
//!
//! A reader who saw the state of before b took the ticket before b, hence before c, so a fill after c is refused by the count, one
//! between a and c by the closed stripe, and one before a is taken out by a. And since keys go out before b, nobody who has seen the
//! new state can see the old one afterwards. A test walks every interleaving.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use isochrone_ident::{Key, Kind, Namespace};
use isochrone_replica::Record;
use moka::Equivalent;
use moka::sync::Cache;

use crate::words::Changed;

/// Number of stripes; a power of two. More stripes, fewer fills refused for a neighbour's sake.
const STRIPES: usize = 1024;

/// What an entry costs beyond its key and value: the record itself, reference counts, moka's tables and queues, and the allocator's rounding. Measured as
/// growth of resident memory: 629 bytes an entry of 116 bytes at 200,000 and at 400,000 entries, 645 when moka had to evict two of three.
const ENTRY_OVERHEAD_BYTES: usize = 520;

/// The name of a record, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) ns: Namespace,
    pub(crate) kind: Kind,
    pub(crate) key: Key,
}

/// The name of a record, borrowed: a look-up allocates nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameRef<'a> {
    pub(crate) ns: &'a Namespace,
    pub(crate) kind: Kind,
    pub(crate) key: &'a [u8],
}

impl Name {
    fn borrow(&self) -> NameRef<'_> {
        NameRef { ns: &self.ns, kind: self.kind, key: self.key.as_bytes() }
    }
}

impl<'a> NameRef<'a> {
    fn of(changed: &'a Changed) -> Self {
        Self { ns: &changed.ns, kind: changed.kind, key: changed.key.as_bytes() }
    }
}

impl Hash for NameRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.ns.as_str().as_bytes());
        state.write_u8(self.kind.number());
        state.write(self.key);
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrow().hash(state);
    }
}

impl Equivalent<Name> for NameRef<'_> {
    fn equivalent(&self, name: &Name) -> bool {
        self.key == name.key.as_bytes() && self.kind == name.kind && self.ns == &name.ns
    }
}

/// What a reader holds between looking into the durable tier and filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    stripe: usize,
    commits: u64,
}

#[derive(Debug, Default)]
struct Stripe {
    /// Commits that have touched the stripe.
    commits: u64,
    /// Keys of the commit in progress that lie on it; closed to fills while above zero.
    closing: u32,
}

pub(crate) struct MemoryTier {
    cache: Cache<Name, Record, SeedableRandomState>,
    stripes: Box<[Mutex<Stripe>]>,
    hasher: SeedableRandomState,
    largest: usize,
}

impl MemoryTier {
    pub(crate) fn new(bytes_max: u64, seed: u64) -> Self {
        let hasher = SeedableRandomState::with_seed(seed, SharedSeed::global_fixed());
        let cache = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|name: &Name, record: &Record| u32::try_from(weight(name.borrow(), record)).unwrap_or(u32::MAX))
            .build_with_hasher(hasher.clone());
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Self { cache, stripes, hasher, largest: usize::try_from(bytes_max / 8).unwrap_or(usize::MAX) }
    }

    /// The copy held, if there is one.
    pub(crate) fn copy_of(&self, name: NameRef<'_>) -> Option<Record> {
        self.cache.get(&name)
    }

    /// Taken before reading the durable tier.
    pub(crate) fn ticket(&self, name: NameRef<'_>) -> Ticket {
        let stripe = self.stripe_of(name);
        Ticket { stripe, commits: self.lock(stripe).commits }
    }

    /// Puts in what was read under `ticket`, unless a commit came between. Refuses what alone would take an eighth of the budget.
    pub(crate) fn fill(&self, ticket: Ticket, name: NameRef<'_>, record: &Record) {
        if weight(name, record) > self.largest {
            return;
        }
        let Ok(key) = Key::new(bytes::Bytes::copy_from_slice(name.key)) else { return };
        let stripe = self.lock(ticket.stripe);
        if stripe.closing == 0 && stripe.commits == ticket.commits {
            self.cache.insert(Name { ns: name.ns.clone(), kind: name.kind, key }, record.clone());
        }
    }

    /// Before a commit becomes visible: closes the stripes of these names to fills, and takes the names out.
    pub(crate) fn begin(&self, changed: &[Changed]) {
        for name in changed.iter().map(NameRef::of) {
            let mut stripe = self.lock(self.stripe_of(name));
            stripe.closing += 1;
            if self.cache.contains_key(&name) {
                self.cache.invalidate(&name);
            }
        }
    }

    /// After the commit has become visible: counts it, and opens the stripes.
    pub(crate) fn end(&self, changed: &[Changed]) {
        for name in changed.iter().map(NameRef::of) {
            let mut stripe = self.lock(self.stripe_of(name));
            stripe.commits += 1;
            stripe.closing -= 1;
        }
    }

    /// Takes everything out, after the durable tier has gone back in time (opened again after a failure).
    pub(crate) fn clear(&self) {
        for stripe in &self.stripes {
            stripe.lock().unwrap_or_else(PoisonError::into_inner).commits += 1;
        }
        self.cache.invalidate_all();
        self.cache.run_pending_tasks();
    }

    /// Bytes counted against the budget.
    pub(crate) fn bytes(&self) -> u64 {
        self.cache.weighted_size()
    }

    fn stripe_of(&self, name: NameRef<'_>) -> usize {
        usize::try_from(self.hasher.hash_one(name) % STRIPES as u64).unwrap_or(0)
    }

    fn lock(&self, stripe: usize) -> MutexGuard<'_, Stripe> {
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(name: NameRef<'_>, record: &Record) -> usize {
    ENTRY_OVERHEAD_BYTES + name.key.len() + record.bytes()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use isochrone_ident::{Hlc, Slot, Version};
    use isochrone_replica::Live;

    use super::*;

    fn name(key: &str) -> Name {
        Name { ns: Namespace::new("data").expect("a name"), kind: Kind::Value, key: Key::new(key.to_owned()).expect("a key") }
    }

    fn changed(name: &Name) -> Changed {
        let (ns, kind, key) = (name.ns.clone(), name.kind, name.key.clone());
        Changed { slot: Slot::of_hash(1), ns, kind, key, version: Version::default(), live: true }
    }

    fn record(hlc: u64, bytes: usize) -> Record {
        let version = Version { hlc: Hlc(hlc), ..Version::default() };
        Record::live(version, Live { value: Bytes::from(vec![0; bytes]), content_type: None, expires_at: None })
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Step {
        Ticket,
        Read,
        Fill,
        Begin,
        Visible,
        End,
    }

    /// Every merge of the two orders.
    fn interleavings(a: &[Step], b: &[Step]) -> Vec<Vec<Step>> {
        match (a.split_first(), b.split_first()) {
            (None, _) => vec![b.to_vec()],
            (_, None) => vec![a.to_vec()],
            (Some((&x, a_rest)), Some((&y, b_rest))) => {
                let with = |first: Step, rest: Vec<Vec<Step>>| {
                    rest.into_iter().map(move |mut tail| {
                        tail.insert(0, first);
                        tail
                    })
                };
                with(x, interleavings(a_rest, b)).chain(with(y, interleavings(a, b_rest))).collect()
            }
        }
    }

    /// Runs one order of a reader's and a committer's steps, and tells the version that the tier gives out afterwards. Checks that the old record is never given
    /// out once the new one can be seen.
    fn run(order: &[Step]) -> Option<u64> {
        let tier = MemoryTier::new(1 << 20, 1);
        let name = name("k");
        let at = name.borrow();
        let (mut durable, mut ticket, mut read) = (1, None, None);
        for step in order {
            match step {
                Step::Ticket => ticket = Some(tier.ticket(at)),
                Step::Read => read = Some(record(durable, 1)),
                Step::Fill => tier.fill(ticket.expect("taken"), at, &read.clone().expect("read")),
                Step::Begin => tier.begin(&[changed(&name)]),
                Step::Visible => durable = 2,
                Step::End => tier.end(&[changed(&name)]),
            }
            if durable == 2 {
                let held = tier.copy_of(at).map_or(2, |held| held.version.hlc.0);
                assert_eq!(held, 2, "the old record was given out after the new one could be seen: {order:?}");
            }
        }
        tier.copy_of(at).map(|held| held.version.hlc.0)
    }

    #[test]
    fn in_no_order_of_steps_does_a_stale_fill_outlive_a_commit() {
        let orders = interleavings(&[Step::Ticket, Step::Read, Step::Fill], &[Step::Begin, Step::Visible, Step::End]);
        assert_eq!(orders.len(), 20);
        let held: Vec<Option<u64>> = orders.iter().map(|order| run(order)).collect();
        assert!(held.iter().all(|held| *held != Some(1)));
        assert!(held.contains(&Some(2)), "a reader after the commit fills");
    }

    #[test]
    fn without_the_ticket_a_stale_fill_would_outlive_a_commit() {
        let tier = MemoryTier::new(1 << 20, 1);
        let name = name("k");
        let stale = record(1, 1);
        tier.begin(&[changed(&name)]);
        tier.end(&[changed(&name)]);
        tier.fill(tier.ticket(name.borrow()), name.borrow(), &stale);
        assert_eq!(tier.copy_of(name.borrow()), Some(stale), "the check has something to catch");
    }

    #[test]
    fn the_budget_holds_whatever_is_put_in() {
        let tier = MemoryTier::new(64 << 10, 1);
        for number in 0..2000 {
            let name = name(&format!("key-{number}"));
            tier.fill(tier.ticket(name.borrow()), name.borrow(), &record(1, number % 900));
        }
        tier.cache.run_pending_tasks();
        assert!(tier.bytes() <= 64 << 10, "{} bytes", tier.bytes());
        let counted: usize = tier.cache.iter().map(|(name, record)| weight(name.borrow(), &record)).sum();
        assert_eq!(counted as u64, tier.bytes());
    }

    #[test]
    fn what_would_take_an_eighth_of_the_budget_alone_is_not_kept() {
        let tier = MemoryTier::new(64 << 10, 1);
        let name = name("large");
        tier.fill(tier.ticket(name.borrow()), name.borrow(), &record(1, 9 << 10));
        assert_eq!(tier.copy_of(name.borrow()), None);
    }
}
