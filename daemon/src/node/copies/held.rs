//! The copies themselves, in memory within `copies.bytes` (E10). On the path of every read of a key whose replicas are elsewhere: no lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use isochrone_ident::{Hlc, Key, Kind, Namespace, NodeId};
use isochrone_replica::{CopyHeartbeat, CopyTicket, KeyHash, Opening, Position, Record};
use moka::sync::Cache;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::core::lock;

/// Stripes that count this daemon's own commits; a power of two.
const STRIPES: usize = 64;
/// Names up to here are hashed on the stack.
const SHORT_BYTES_MAX: usize = 256;
/// What a copy costs beyond its key and value: the record itself, reference counts, moka's tables and queues, and the allocator's rounding. The store's
/// memory tier measured 520 for its records; a copy has a ticket and one more allocation.
const ENTRY_OVERHEAD_BYTES: usize = 640;

/// A key's name, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) ns: &'a Namespace,
    pub(crate) kind: Kind,
    pub(crate) key: &'a [u8],
}

impl Name<'_> {
    /// What stands for the key in an invalidation, the same at every daemon: XXH3-64, seeded with the kind's number, over the namespace, a zero byte and
    /// the key. Allocates nothing for a short name.
    pub(crate) fn hash(&self) -> KeyHash {
        let ns = self.ns.as_str().as_bytes();
        let seed = u64::from(self.kind.number());
        let mut short = [0_u8; SHORT_BYTES_MAX];
        if let Some(joined) = short.get_mut(..ns.len() + 1 + self.key.len()) {
            joined[..ns.len()].copy_from_slice(ns);
            joined[ns.len() + 1..].copy_from_slice(self.key);
            return KeyHash(xxh3_64_with_seed(joined, seed));
        }
        KeyHash(xxh3_64_with_seed(&[ns, &[0], self.key].concat(), seed))
    }
}

/// One life of a stream from a replica, as the copies kept under it see it. Outlives the stream: what it showed last still bounds their age.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) opening: Opening,
    is_live: AtomicBool,
    position: AtomicU64,
    shown: AtomicU64,
}

impl Life {
    pub(crate) fn new(opening: Opening) -> Self {
        Self { opening, is_live: AtomicBool::new(true), position: AtomicU64::new(0), shown: AtomicU64::new(0) }
    }

    /// What its last heartbeat said. Should one arrive in between, this mixes the later position with the earlier time, which the replica
    /// showed at that position all the more.
    fn heartbeat(&self) -> CopyHeartbeat {
        let shown = self.shown();
        CopyHeartbeat { position: Position(self.position.load(Ordering::Acquire)), shown }
    }

    /// Up to when the replica showed everything in its last heartbeat.
    pub(crate) fn shown(&self) -> Hlc {
        Hlc(self.shown.load(Ordering::Acquire))
    }

    /// A heartbeat has arrived, and all that came before it on the stream was carried out.
    pub(crate) fn beat(&self, heartbeat: CopyHeartbeat) {
        self.position.store(heartbeat.position.0, Ordering::Release);
        self.shown.store(heartbeat.shown.0, Ordering::Release);
    }

    pub(crate) fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Acquire)
    }

    /// The stream has broken.
    pub(crate) fn end(&self) {
        self.is_live.store(false, Ordering::Release);
    }
}

/// What a replica said of a key, joined with what this daemon had taken itself.
#[derive(Debug)]
pub(crate) struct Copy {
    ns: Namespace,
    kind: Kind,
    key: Key,
    /// The state; `None`: there was none, which is as good to know.
    pub(crate) record: Option<Record>,
    /// The replica.
    pub(crate) from: NodeId,
    ticket: CopyTicket,
    life: Arc<Life>,
    /// Set before the heartbeat that would vouch for it is shown: who still holds the copy then sees it.
    is_outdated: AtomicBool,
}

impl Copy {
    fn is_of(&self, name: &Name<'_>) -> bool {
        self.key.as_bytes() == name.key && self.kind == name.kind && self.ns == *name.ns
    }

    fn bytes(&self) -> usize {
        ENTRY_OVERHEAD_BYTES + self.key.as_bytes().len() + self.record.as_ref().map_or(0, Record::bytes)
    }

    /// Up to when it reflects every write that any daemon took; `None` once it has been outdated.
    pub(crate) fn shown(&self) -> Option<Hlc> {
        let shown = self.ticket.shown_by(self.life.heartbeat());
        (!self.is_outdated.load(Ordering::Acquire)).then_some(shown)
    }

    /// Whether the stream that vouches for it lives.
    pub(crate) fn is_live(&self) -> bool {
        self.life.is_live()
    }

    /// Whether a write that this replica announced there outdates it. One that another replica announced does if it is later than all that
    /// the copy has: the copy's own replica may be further from the writer, and will announce it in its turn.
    pub(crate) fn is_outdated_by(&self, news: &News) -> bool {
        if news.from == self.from {
            return self.ticket.is_outdated_by(news.opening, news.position);
        }
        self.record.as_ref().is_none_or(|record| record.version < news.version)
    }
}

/// A write that a replica announced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News {
    pub(crate) from: NodeId,
    pub(crate) opening: Opening,
    pub(crate) position: Position,
    pub(crate) version: isochrone_ident::Version,
}

/// The commits of this daemon that touched a stripe; taken before its own store is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnTicket {
    stripe: usize,
    commits: u64,
}

/// All copies.
pub(crate) struct Held {
    cache: Cache<KeyHash, Arc<Copy>, SeedableRandomState>,
    own: Box<[Mutex<u64>]>,
    /// Whether a copy was ever to be kept: until then commits cost nothing.
    in_use: AtomicBool,
    bytes_max: usize,
}

impl Held {
    /// None yet, and never more than `bytes_max`.
    pub(crate) fn new(bytes_max: u64, seed: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_: &KeyHash, copy: &Arc<Copy>| u32::try_from(copy.bytes()).unwrap_or(u32::MAX))
            .build_with_hasher(SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()));
        let own = (0..STRIPES).map(|_| Mutex::default()).collect();
        Self { cache, own, in_use: AtomicBool::new(false), bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX) }
    }

    /// The copy of a key, if one is held.
    pub(crate) fn copy_of(&self, name: &Name<'_>) -> Option<Arc<Copy>> {
        if !self.in_use.load(Ordering::Relaxed) {
            return None;
        }
        self.cache.get(&name.hash()).filter(|copy| copy.is_of(name))
    }

    /// To be taken before this daemon's own store is read for a copy.
    pub(crate) fn own_ticket(&self, hash: KeyHash) -> OwnTicket {
        self.in_use.store(true, Ordering::Relaxed);
        // Together with the one in `own_changed`: either the commit there sees that copies are in use, or the read that follows here sees the commit.
        fence(Ordering::SeqCst);
        let stripe = usize::try_from(hash.0 % STRIPES as u64).unwrap_or(0);
        OwnTicket { stripe, commits: *lock(&self.own[stripe]) }
    }

    /// Keeps a copy, unless this daemon's own store has changed since `own`. Refuses what alone would take an eighth of the memory. The caller makes sure that no
    /// invalidation of the key comes in between.
    pub(crate) fn keep(&self, hash: KeyHash, own: OwnTicket, copy: Copy) {
        if copy.bytes() > self.bytes_max / 8 {
            return;
        }
        let commits = lock(&self.own[own.stripe]);
        if *commits == own.commits {
            self.cache.insert(hash, Arc::new(copy));
        }
    }

    /// This daemon's own store has changed a key, which copies had joined in.
    pub(crate) fn own_changed(&self, name: &Name<'_>) {
        let hash = name.hash();
        let stripe = usize::try_from(hash.0 % STRIPES as u64).unwrap_or(0);
        let mut commits = lock(&self.own[stripe]);
        *commits += 1;
        self.drop_if(hash, |_| true);
    }

    /// Whether commits matter to anybody here.
    pub(crate) fn is_in_use(&self) -> bool {
        fence(Ordering::SeqCst);
        self.in_use.load(Ordering::Relaxed)
    }

    /// Drops the copy of a key if it is to go; says whether it went.
    pub(crate) fn drop_if(&self, hash: KeyHash, is_to_go: impl FnOnce(&Copy) -> bool) -> bool {
        // Looked for first, since a look-up counts as a read in moka's eyes.
        if !self.cache.contains_key(&hash) {
            return false;
        }
        let Some(copy) = self.cache.get(&hash).filter(|copy| is_to_go(copy)) else { return false };
        copy.is_outdated.store(true, Ordering::Release);
        self.cache.invalidate(&hash);
        true
    }

    /// Copies, and the bytes that are counted for them.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.cache.run_pending_tasks();
        (self.cache.entry_count(), self.cache.weighted_size())
    }
}

/// What goes into a copy.
pub(crate) struct Fill<'a> {
    pub(crate) name: Name<'a>,
    pub(crate) key: &'a Key,
    pub(crate) record: Option<Record>,
    pub(crate) from: NodeId,
    pub(crate) ticket: CopyTicket,
}

impl Fill<'_> {
    /// The copy, under the life of the stream that its ticket names.
    pub(crate) fn into_copy(self, life: Arc<Life>) -> Copy {
        Copy {
            ns: self.name.ns.clone(),
            kind: self.name.kind,
            key: self.key.clone(),
            record: self.record,
            from: self.from,
            ticket: self.ticket,
            life,
            is_outdated: AtomicBool::new(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use isochrone_ident::{Incarnation, Version, WallMicros};
    use isochrone_replica::Live;

    use super::*;

    const R: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const LIFE: Opening = Opening(7);

    fn at(ms: u64) -> Hlc {
        Hlc::at(WallMicros(ms * 1000))
    }

    fn version(ms: u64) -> Version {
        Version { hlc: at(ms), node: R, incarnation: Incarnation(1) }
    }

    fn ticket(position: u64) -> CopyTicket {
        CopyTicket { opening: LIFE, position: Position(position), shown: at(10) }
    }

    fn news(from: NodeId, position: u64, ms: u64) -> News {
        News { from, opening: LIFE, position: Position(position), version: version(ms) }
    }

    struct Bench {
        held: Held,
        ns: Namespace,
        key: Key,
        life: Arc<Life>,
    }

    impl Bench {
        fn new() -> Self {
            let ns = Namespace::new("data").expect("a name");
            let key = Key::new("k".to_owned()).expect("a key");
            Self { held: Held::new(1 << 20, 1), ns, key, life: Arc::new(Life::new(LIFE)) }
        }

        fn name(&self) -> Name<'_> {
            Name { ns: &self.ns, kind: Kind::Value, key: self.key.as_bytes() }
        }

        fn fill(&self, bytes: usize) -> Copy {
            let value = bytes::Bytes::from(vec![0; bytes]);
            let record = Some(Record::live(version(5), Live { value, content_type: None, expires_at: None }));
            Fill { name: self.name(), key: &self.key, record, from: R, ticket: ticket(3) }.into_copy(Arc::clone(&self.life))
        }

        fn keep(&self, own: OwnTicket, bytes: usize) -> bool {
            self.held.keep(self.name().hash(), own, self.fill(bytes));
            self.held.copy_of(&self.name()).is_some()
        }
    }

    #[test]
    fn e10_a_copy_goes_with_an_invalidation_that_outdates_it_and_with_no_other() {
        let bench = Bench::new();
        assert!(bench.keep(bench.held.own_ticket(bench.name().hash()), 1));
        let goes = |news: &News| bench.held.drop_if(bench.name().hash(), |copy| copy.is_outdated_by(news));
        assert!(!goes(&news(R, 3, 9)), "the state has that write");
        assert!(!goes(&news(OTHER, 99, 5)), "another replica, no later write");
        let held = bench.held.copy_of(&bench.name()).expect("held");
        assert!(goes(&news(OTHER, 1, 6)), "another replica that is ahead");
        assert!(bench.held.copy_of(&bench.name()).is_none());
        assert_eq!(held.shown(), None, "who holds it still learns of it before a heartbeat vouches for it");
    }

    #[test]
    fn e10_a_copy_that_an_own_commit_came_between_is_not_kept() {
        let bench = Bench::new();
        let before = bench.held.own_ticket(bench.name().hash());
        bench.held.own_changed(&bench.name());
        assert!(!bench.keep(before, 1));
        assert!(bench.keep(bench.held.own_ticket(bench.name().hash()), 1));
        bench.held.own_changed(&bench.name());
        assert!(bench.held.copy_of(&bench.name()).is_none(), "an own write goes ahead of the copy");
    }

    #[test]
    fn e10_a_copy_reflects_what_its_own_life_has_shown_last() {
        let bench = Bench::new();
        assert!(bench.keep(bench.held.own_ticket(bench.name().hash()), 1));
        let copy = bench.held.copy_of(&bench.name()).expect("held");
        assert_eq!(copy.shown(), Some(at(10)));
        bench.life.beat(CopyHeartbeat { position: Position(3), shown: at(20) });
        assert_eq!(copy.shown(), Some(at(20)));
        bench.life.end();
        assert!(!copy.is_live());
        assert_eq!(copy.shown(), Some(at(20)), "and grows older from there");
    }

    #[test]
    fn what_would_take_an_eighth_of_the_memory_alone_is_not_kept() {
        let bench = Bench::new();
        assert!(!bench.keep(bench.held.own_ticket(bench.name().hash()), 128 << 10));
    }

    #[test]
    fn a_long_name_is_hashed_as_a_short_one_and_each_kind_by_itself() {
        let ns = Namespace::new("data").expect("a name");
        let hash = |kind, key: &[u8]| Name { ns: &ns, kind, key }.hash();
        let long = vec![b'k'; 1000];
        assert_eq!(hash(Kind::Value, &long), KeyHash(xxh3_64_with_seed(&[b"data".as_slice(), &[0], &long].concat(), 0)));
        assert_ne!(hash(Kind::Value, b"k"), hash(Kind::Counter, b"k"));
    }
}
