//! One simulated daemon: a disk that forgets what it has not synced, the acceptor over it, a proposer, and whatever it drives.

use std::collections::VecDeque;
use std::sync::Arc;

use isochrone_ident::{Incarnation, NodeId, StoreId};
use isochrone_quorum::{
    Acceptor, AcceptorOptions, Collector, Configuration, Member, Mover, Mutation, Place, Proposer, ProposerId, ProposerOptions, Request,
    Row,
};

use crate::support::Disk;

/// Where an answer goes: which daemon, in which of its lives.
pub(crate) type Reply = (usize, u64);

pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) store: StoreId,
    pub(crate) boot: u64,
    pub(crate) is_up: bool,
    pub(crate) disk: Disk,
    /// Written and not synced: a crash may lose any end of it.
    pub(crate) pending: VecDeque<(Place, Vec<Row>)>,
    pub(crate) acceptor: Acceptor<Reply>,
    pub(crate) proposer: Proposer,
    pub(crate) known: Arc<Configuration>,
    pub(crate) parked: Vec<(Reply, Request)>,
    pub(crate) mover: Option<Mover>,
    pub(crate) collector: Option<Collector>,
    /// How far its clock is ahead.
    pub(crate) skew: u64,
    pub(crate) mutation: Option<Mutation>,
}

/// Small pages, so that listings take several.
const PAGE_KEYS: usize = 2;

pub(crate) fn acceptor_of(member: Member, mutation: Option<Mutation>) -> Acceptor<Reply> {
    Acceptor::new(member, AcceptorOptions { page_keys: PAGE_KEYS, mutation, ..AcceptorOptions::default() })
}

pub(crate) fn proposer_of(index: usize, boot: u64, options: ProposerOptions, seed: u64) -> Proposer {
    // The broken rule Q2: every life draws from the same ballots.
    let life = if options.mutation == Some(Mutation::NoIncarnation) { 0 } else { boot };
    Proposer::new(ProposerId { node: node_id(index), incarnation: Incarnation(life) }, options, seed)
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId(index as u128 + 1)
}

pub(crate) fn member_of(index: usize, store: StoreId) -> Member {
    Member { node: node_id(index), store }
}

impl Node {
    pub(crate) fn member(&self) -> Member {
        member_of(self.index, self.store)
    }

    /// Loses what is not synced, but for the first `kept` groups.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.is_up = false;
        for (_, rows) in self.pending.drain(..).take(kept) {
            rows.into_iter().for_each(|row| self.disk.apply(row));
        }
        self.parked.clear();
        self.mover = None;
        self.collector = None;
    }

    pub(crate) fn restart(&mut self, options: ProposerOptions, seed: u64) {
        self.is_up = true;
        self.boot += 1;
        self.acceptor = acceptor_of(self.member(), self.mutation);
        let mut before = std::mem::replace(&mut self.proposer, proposer_of(self.index, self.boot, options, seed));
        if self.mutation == Some(Mutation::GrantsOutliveRestart) {
            self.proposer.configure(isochrone_ident::WallMicros(0), Arc::clone(&self.known));
            self.proposer.inherit_grants(&mut before);
        }
    }

    pub(crate) fn synced(&mut self, place: Place) -> Vec<(Reply, isochrone_quorum::Answer)> {
        while self.pending.front().is_some_and(|(at, _)| *at <= place) {
            let rows = self.pending.pop_front().map(|(_, rows)| rows).unwrap_or_default();
            rows.into_iter().for_each(|row| self.disk.apply(row));
        }
        self.acceptor.synced(place)
    }
}
