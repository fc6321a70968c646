//! The side of a comparison that asks: goes down where the digests differ, and judges the rows that do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use isochrone_gossip::{Call, Traffic};
use isochrone_ident::{Hlc, Kind, Namespace, NodeId, Slot, Version};
use isochrone_replica::{Differing, GROUPS, Grounds, Item, Marks, SPAN_SLOTS, Sums, Verdict, bucket_in, differing, differing_items};
use isochrone_store::parse_item_name;

use super::count_bytes;
use super::mend::Wanted;
use super::scope::Scope;
use super::words::{Ask, CompareRequest, ItemPage, ROOTS_MAX, Shown};
use crate::node::core::{Core, lock};
use crate::node::wire;

/// Slots that are gone down into at a time: as many as fill one answer of groups or buckets.
const SLOTS_A_STEP: usize = 64;
/// How long a peer may take to answer; one that is asked to compare itself has as much to do as this node had.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// A comparison with one peer.
pub(crate) struct Asking {
    pub(super) peer: NodeId,
    pub(super) scope: Scope,
    only: Option<Namespace>,
    forced: bool,
}

/// What a comparison found and did. All figures only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) keys_compared: u64,
    pub(crate) keys_differing: u64,
    pub(crate) keys_pulled: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    /// Keys of which the peer lacks what is here.
    pub(crate) theirs: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, more: &Self) {
        self.keys_compared += more.keys_compared;
        self.keys_differing += more.keys_differing;
        self.keys_pulled += more.keys_pulled;
        self.bytes_sent += more.bytes_sent;
        self.bytes_received += more.bytes_received;
        self.theirs += more.theirs;
    }
}

/// How far what each member took has arrived here.
pub(super) struct Arrived(BTreeMap<NodeId, Hlc>);

impl Arrived {
    /// Whether a write must be here: its daemon has said that it sent everything up to there, or is no member, so that nobody sends it any more.
    pub(super) fn has(&self, version: Version) -> bool {
        self.0.get(&version.node).is_none_or(|sent_through| version.hlc <= *sent_through)
    }
}

impl Core {
    /// A comparison of what this node needs with what that peer holds, by the placement as it is now. `forced`: what may be on its way is pulled as well.
    pub(crate) fn asking(&self, peer: NodeId, only: Option<Namespace>, forced: bool) -> Asking {
        Asking { peer, scope: Scope::new(self.view.load_full(), self.id(), peer, only.clone()), only, forced }
    }

    pub(super) async fn ask_to_compare(&self, asking: &Asking, ask: Ask, tally: &mut Tally) -> Result<Shown, String> {
        let body = wire::encode(&CompareRequest { phase: asking.scope.phase(), only: asking.only.clone(), ask });
        let sent = body.len();
        let call = Call { service: wire::COMPARE, class: Traffic::Bulk, deadline: CALL_DEADLINE, body, retries: true };
        let bytes = self.mesh.call(asking.peer, call).await.map_err(|e| e.to_string())?;
        self.account(sent, bytes.len(), tally).await;
        wire::decode(&bytes)
    }

    /// Counts what went over the wire, and waits as the pace demands.
    pub(super) async fn account(&self, sent: usize, received: usize, tally: &mut Tally) {
        count_bytes(sent, received);
        tally.bytes_sent += sent as u64;
        tally.bytes_received += received as u64;
        self.repair.pace((sent + received) as u64, self.options.repair.bytes_per_second).await;
    }

    async fn ask_marks(&self, asking: &Asking, ask: Ask, tally: &mut Tally) -> Result<Vec<u64>, String> {
        match self.ask_to_compare(asking, ask, tally).await? {
            Shown::Marks(Marks(marks)) => Ok(marks),
            _ => Err(OTHER.to_owned()),
        }
    }

    async fn ask_sums(&self, asking: &Asking, ask: Ask, tally: &mut Tally) -> Result<Vec<u128>, String> {
        match self.ask_to_compare(asking, ask, tally).await? {
            Shown::Sums(Sums(sums)) => Ok(sums),
            _ => Err(OTHER.to_owned()),
        }
    }

    /// The slots in which anything differs.
    pub(super) async fn differing_slots(&self, asking: &Asking, tally: &mut Tally) -> Result<Vec<Slot>, String> {
        let theirs = self.ask_marks(asking, Ask::Spans, tally).await?;
        let mine = self.roots(&asking.scope)?.spans();
        let spans: BTreeSet<usize> = differing(&mine, &theirs).into_iter().collect();
        if asking.only.is_none() {
            self.repair.forget_divergence(asking.peer, Slot::all());
        }
        Ok(Slot::all().filter(|slot| spans.contains(&(slot.index() / SPAN_SLOTS))).collect())
    }

    /// Compares slots, and takes what is missing here.
    ///
    /// # Errors
    /// A text for the log; what was taken by then stays.
    pub(crate) async fn mend_slots(&self, asking: &Asking, slots: &[Slot]) -> Result<Tally, String> {
        let mut tally = Tally::default();
        for slots in slots.chunks(ROOTS_MAX) {
            let theirs = self.ask_sums(asking, Ask::Roots(slots.to_vec()), &mut tally).await?;
            let mut mine = Vec::with_capacity(slots.len());
            for &slot in slots {
                mine.push(self.digest(&asking.scope, slot)?.root());
            }
            self.repair.forget_divergence(asking.peer, slots.iter().copied());
            let apart: Vec<Slot> = differing(&mine, &theirs).into_iter().filter_map(|at| slots.get(at).copied()).collect();
            for step in apart.chunks(SLOTS_A_STEP) {
                let buckets = self.differing_buckets(asking, step, &mut tally).await?;
                self.mend_buckets(asking, buckets, &mut tally).await?;
            }
        }
        Ok(tally)
    }

    async fn differing_buckets(&self, asking: &Asking, slots: &[Slot], tally: &mut Tally) -> Result<Vec<(Slot, Vec<u8>)>, String> {
        let theirs = self.ask_marks(asking, Ask::Groups(slots.to_vec()), tally).await?;
        let (mut digests, mut groups) = (BTreeMap::new(), Vec::new());
        for (&slot, theirs) in slots.iter().zip(chunks_or_none(&theirs, slots.len())) {
            let digest = self.digest(&asking.scope, slot)?;
            groups.extend(differing(&digest.groups(), theirs).into_iter().filter_map(|group| Some((slot, u8::try_from(group).ok()?))));
            digests.insert(slot, digest);
        }
        let mut buckets: BTreeMap<Slot, Vec<u8>> = BTreeMap::new();
        for groups in groups.chunks(super::words::PARTS_MAX) {
            let theirs = self.ask_sums(asking, Ask::Buckets(groups.to_vec()), tally).await?;
            for (&(slot, group), theirs) in groups.iter().zip(chunks_or_none(&theirs, groups.len())) {
                let group = usize::from(group);
                let mine = digests.get(&slot).map(|digest| digest.buckets(group)).unwrap_or_default();
                let places = differing(&mine, theirs).into_iter().filter(|place| *place < GROUPS);
                buckets.entry(slot).or_default().extend(places.map(|place| bucket_in(group, place)));
            }
        }
        Ok(buckets.into_iter().collect())
    }

    /// Goes through the rows of buckets, page by page.
    async fn mend_buckets(&self, asking: &Asking, buckets: Vec<(Slot, Vec<u8>)>, tally: &mut Tally) -> Result<(), String> {
        let (mut left, mut after) = (buckets.as_slice(), None);
        while !left.is_empty() {
            // Before anybody looks: see `Grounds`.
            let (grounds, arrived) = self.grounds(asking.forced);
            let ask = Ask::Items { wanted: left.to_vec(), after: after.clone() };
            let Shown::Items(pages) = self.ask_to_compare(asking, ask, tally).await? else { return Err(OTHER.to_owned()) };
            if pages.is_empty() || pages.len() > left.len() {
                return Err(OTHER.to_owned());
            }
            let mut wanted = Vec::new();
            for ((slot, buckets), page) in left.iter().zip(&pages) {
                let mine = self.own_items(asking, (*slot, buckets), after.take(), page)?;
                let compared = mine.len().max(page.items.len()) as u64;
                metrics::counter!("isochrone_repair_keys_compared_total").increment(compared);
                tally.keys_compared += compared;
                wanted.extend(self.judge(asking, *slot, &differing_items(&mine, &page.items), (&grounds, &arrived), tally));
            }
            let whole = pages.iter().take_while(|page| page.next.is_none()).count();
            after = pages.last().and_then(|page| page.next.clone());
            left = &left[whole..];
            self.mend(asking, &wanted, tally).await?;
        }
        Ok(())
    }

    /// What stands here in the range that a page covers.
    fn own_items(&self, asking: &Asking, buckets: (Slot, &[u8]), after: Option<Bytes>, page: &ItemPage) -> Result<Vec<Item>, String> {
        let (slot, buckets) = buckets;
        let is_covered = |item: &Item| page.next.as_ref().is_none_or(|last| item.name <= last);
        let (mut items, mut place) = (Vec::new(), after);
        loop {
            let own = self.store.scan_buckets(slot, buckets, |ns| asking.scope.counts(slot, ns), place.as_deref(), super::words::ITEMS_MAX);
            let own = own.map_err(|e| e.to_string())?;
            let is_beyond = own.items.last().is_some_and(|last| !is_covered(last));
            items.extend(own.items.into_iter().filter(is_covered));
            match own.next {
                Some(next) if !is_beyond => place = Some(next),
                _ => return Ok(items),
            }
        }
    }

    /// What is known before a look at the rows.
    pub(super) fn grounds(&self, forced: bool) -> (Grounds, Arrived) {
        let horizon = lock(&self.horizon);
        let arrived = horizon.members().map(|member| (member, horizon.heard(member).sent_through)).collect();
        let (now, skew_ms, stable) = (self.now(), self.options.clock.ahead_ms_max, horizon.stable_through());
        (Grounds { now, skew_ms, stable, forced }, Arrived(arrived))
    }

    /// The keys to be pulled.
    fn judge(
        &self,
        asking: &Asking,
        slot: Slot,
        found: &[Differing<'_>],
        (grounds, arrived): (&Grounds, &Arrived),
        tally: &mut Tally,
    ) -> Vec<Wanted> {
        let (mut wanted, mut differing) = (Vec::new(), 0);
        for one in found {
            let Some(name) = one.theirs.or(one.mine).and_then(|item| parse_item_name(&item.name).ok()) else { continue };
            let kind: Kind = name.1;
            match grounds.judge(one, kind, |version| arrived.has(version)) {
                Verdict::Pull => {
                    wanted.push(Wanted { slot, name });
                    differing += 1;
                }
                Verdict::Theirs { overdue } => {
                    tally.theirs += 1;
                    differing += u64::from(overdue);
                }
                Verdict::OnItsWay | Verdict::Settled => {}
            }
        }
        tally.keys_differing += differing;
        self.repair.note_divergence(asking.peer, slot, differing);
        wanted
    }
}

/// Told of an answer to something that was not asked.
pub(super) const OTHER: &str = "an answer to something else";

/// The parts of an answer, one for each of `count`; those that a peer has left out are empty.
fn chunks_or_none<T>(all: &[T], count: usize) -> impl Iterator<Item = &[T]> {
    all.chunks(GROUPS).chain(std::iter::repeat(&[][..])).take(count)
}
