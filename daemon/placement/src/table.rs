//! A placement epoch's table: slot -> ordered replica set (P2), flat, so that a lookup is an index (P4).

use std::fmt;

use isochrone_ident::{NodeId, SLOTS, Slot};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

/// The widest replica set.
pub const WIDTH_MAX: u8 = 7;

/// The most nodes that one table names.
pub const MEMBERS_MAX: usize = 16_384;

/// The cell of a replica that a slot lacks: at the end of its row, after all that it has.
const VACANT: u16 = u16::MAX;

/// Why a table cannot be: what a peer or a disk gave is inconsistent, and nothing was made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTable {
    /// A width outside `1..=7`.
    #[error("a replica set has a width of 1 to 7, not {0}")]
    Width(u8),
    /// More nodes than [`MEMBERS_MAX`].
    #[error("a table names at most 16384 nodes, not {0}")]
    Members(usize),
    /// The nodes are not in ascending order, each once.
    #[error("a table's nodes are in ascending order, each once")]
    Order,
    /// Not exactly `SLOTS` x min(width, nodes) cells.
    #[error("a table of this width and these nodes has {expected} cells, not {found}")]
    Cells {
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A set without a replica, or a cell that names no node, or one that is in the same set already, or that comes after a vacant one.
    #[error("the replica set of slot {0} is empty, has a gap, or names an unknown node or one node twice")]
    Replica(Slot),
}

/// A table slot -> ordered replica set (P2). Never changed once made: the council replaces it by another.
///
/// Each slot has min([`SlotTable::width`], number of nodes) replicas: with fewer nodes than the width, the sets are shorter. Only a table of what is left
/// after nodes were given up has sets of different sizes, none empty. One cell a replica, an index into the ascending list of nodes, or
/// `u16::MAX` for none; a table of width 3 takes 24 KiB and 16 bytes a node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct SlotTable {
    width: u8,
    members: Vec<NodeId>,
    cells: Vec<u16>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    width: u8,
    members: Vec<NodeId>,
    cells: Vec<u16>,
}

impl SlotTable {
    /// The table of a cluster without nodes: every replica set is empty, the width is 1.
    #[must_use]
    pub const fn empty() -> Self {
        Self { width: 1, members: Vec::new(), cells: Vec::new() }
    }

    /// The table of these parts: nodes ascending, then for each slot in order its min(width, nodes) replicas as indices into `members`.
    ///
    /// # Errors
    /// [`InvalidTable`], whatever the parts: they may come from a peer.
    pub fn from_parts(width: u8, members: Vec<NodeId>, cells: Vec<u16>) -> Result<Self, InvalidTable> {
        if !(1..=WIDTH_MAX).contains(&width) {
            return Err(InvalidTable::Width(width));
        }
        if members.len() > MEMBERS_MAX {
            return Err(InvalidTable::Members(members.len()));
        }
        if !members.is_sorted_by(|a, b| a < b) {
            return Err(InvalidTable::Order);
        }
        let table = Self { width, members, cells };
        let expected = table.depth() * usize::from(SLOTS);
        if table.cells.len() != expected {
            return Err(InvalidTable::Cells { expected, found: table.cells.len() });
        }
        match Slot::all().find(|&slot| !table.is_sound(slot)) {
            Some(slot) => Err(InvalidTable::Replica(slot)),
            None => Ok(table),
        }
    }

    /// The table of parts that keep its rules by construction.
    pub(crate) fn of_sound_parts(width: u8, members: Vec<NodeId>, cells: Vec<u16>) -> Self {
        let table = Self { width, members, cells };
        debug_assert!(Slot::all().all(|slot| table.is_sound(slot)));
        table
    }

    /// The table of these sets, each with at least one node and at most [`WIDTH_MAX`]; they may differ in size.
    pub(crate) fn of_rows(rows: &[Vec<NodeId>]) -> Self {
        let mut members: Vec<NodeId> = rows.iter().flatten().copied().collect();
        members.sort_unstable();
        members.dedup();
        let width = rows.iter().map(Vec::len).max().unwrap_or(1).clamp(1, usize::from(WIDTH_MAX));
        let cell = |node: &NodeId| members.binary_search(node).map_or(VACANT, |at| at as u16);
        let cells = rows.iter().flat_map(|row| row.iter().map(cell).chain(std::iter::repeat(VACANT)).take(width)).collect();
        Self::of_sound_parts(width as u8, members, cells)
    }

    fn is_sound(&self, slot: Slot) -> bool {
        let (row, cells) = (self.row(slot), self.cells_of(slot));
        let known = row.iter().all(|&cell| usize::from(cell) < self.members.len());
        let once = row.iter().enumerate().all(|(at, cell)| !row[..at].contains(cell));
        let filled = !row.is_empty() || cells.is_empty();
        known && once && filled && cells[row.len()..].iter().all(|&cell| cell == VACANT)
    }

    fn cells_of(&self, slot: Slot) -> &[u16] {
        let depth = self.depth();
        &self.cells[slot.index() * depth..][..depth]
    }

    fn row(&self, slot: Slot) -> &[u16] {
        let cells = self.cells_of(slot);
        match cells.iter().position(|&cell| cell == VACANT) {
            Some(end) => &cells[..end],
            None => cells,
        }
    }

    /// The replicas of a slot, in the order of preference (P4): no allocation, no lock.
    #[must_use]
    pub fn replicas(&self, slot: Slot) -> Replicas<'_> {
        Replicas { members: &self.members, cells: self.row(slot) }
    }

    /// How many replicas each slot should have, 1 to 7.
    #[must_use]
    pub const fn width(&self) -> u8 {
        self.width
    }

    /// How many replicas each slot has: min(width, nodes). After nodes were given up: the most that any has.
    #[must_use]
    pub fn depth(&self) -> usize {
        usize::from(self.width).min(self.members.len())
    }

    /// The nodes that the table was computed over, ascending.
    #[must_use]
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// The slots that a node holds, in order.
    pub fn slots_of(&self, node: NodeId) -> impl Iterator<Item = Slot> + '_ {
        let member = self.members.binary_search(&node).ok();
        let holds = move |slot: &Slot| member.is_some_and(|member| self.row(*slot).iter().any(|&cell| usize::from(cell) == member));
        Slot::all().filter(holds)
    }

    /// How many slots each node holds, in the order of [`SlotTable::members`].
    #[must_use]
    pub fn loads(&self) -> Vec<u32> {
        let mut loads = vec![0; self.members.len()];
        for &cell in self.cells.iter().filter(|&&cell| cell != VACANT) {
            loads[usize::from(cell)] += 1;
        }
        loads
    }

    /// XXH3-64 over the table's canonical bytes: a label, width, number of nodes, nodes and cells, all little-endian. Two nodes with one digest
    /// have one table (P2); it is part of the format. It guards against mistakes, not against an attacker: the council's log is authenticated.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = Xxh3Default::new();
        hasher.update(b"isochrone slot table 1");
        hasher.update(&[self.width]);
        hasher.update(&(self.members.len() as u64).to_le_bytes());
        for node in &self.members {
            hasher.update(&node.0.to_le_bytes());
        }
        for cell in &self.cells {
            hasher.update(&cell.to_le_bytes());
        }
        hasher.digest()
    }
}

impl Default for SlotTable {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotTable(width {}, {} nodes, {:016x})", self.width, self.members.len(), self.digest())
    }
}

impl TryFrom<Wire> for SlotTable {
    type Error = InvalidTable;

    fn try_from(wire: Wire) -> Result<Self, InvalidTable> {
        Self::from_parts(wire.width, wire.members, wire.cells)
    }
}

impl From<SlotTable> for Wire {
    fn from(table: SlotTable) -> Self {
        Self { width: table.width, members: table.members, cells: table.cells }
    }
}

/// A replica set, in the order of preference: an iterator over the nodes, as cheap to copy as two slices. At most seven, each once.
#[derive(Clone, Copy)]
pub struct Replicas<'a> {
    members: &'a [NodeId],
    cells: &'a [u16],
}

impl Replicas<'_> {
    /// Whether the node is one of those left.
    #[must_use]
    pub fn contains(self, node: NodeId) -> bool {
        self.cells.iter().any(|&cell| self.members[usize::from(cell)] == node)
    }

    /// Whether none is left.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.cells.is_empty()
    }

    /// The size of a majority of those left; 1 when there are none, so that it can't be reached.
    #[must_use]
    pub const fn majority(self) -> usize {
        self.cells.len() / 2 + 1
    }

    /// Whether both name the same nodes, in whatever order.
    #[must_use]
    pub fn is_same_set(self, other: Replicas<'_>) -> bool {
        self.cells.len() == other.cells.len() && self.into_iter().all(|node| other.contains(node))
    }
}

impl Iterator for Replicas<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        let (&first, rest) = self.cells.split_first()?;
        self.cells = rest;
        Some(self.members[usize::from(first)])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.cells.len(), Some(self.cells.len()))
    }
}

impl ExactSizeIterator for Replicas<'_> {}
impl std::iter::FusedIterator for Replicas<'_> {}

impl fmt::Debug for Replicas<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: u128) -> Vec<NodeId> {
        (0..count).map(NodeId).collect()
    }

    fn cells(row: &[u16]) -> Vec<u16> {
        row.repeat(usize::from(SLOTS))
    }

    #[test]
    fn p4_a_lookup_gives_the_replicas_in_order() {
        let table = SlotTable::from_parts(2, nodes(3), cells(&[2, 0])).expect("a sound table");
        let replicas = table.replicas(Slot::of_hash(5));
        assert_eq!(replicas.collect::<Vec<_>>(), [NodeId(2), NodeId(0)]);
        assert_eq!((replicas.len(), replicas.majority(), replicas.contains(NodeId(1))), (2, 2, false));
        assert_eq!(table.loads(), [4096, 0, 4096]);
        assert_eq!((table.slots_of(NodeId(2)).count(), table.slots_of(NodeId(1)).count(), table.slots_of(NodeId(9)).count()), (4096, 0, 0));
    }

    #[test]
    fn p2_with_fewer_nodes_than_the_width_the_sets_are_shorter() {
        let table = SlotTable::from_parts(5, nodes(2), cells(&[1, 0])).expect("a sound table");
        assert_eq!((table.width(), table.depth(), table.replicas(Slot::of_hash(0)).len()), (5, 2, 2));
        assert!(SlotTable::empty().replicas(Slot::of_hash(4095)).is_empty());
    }

    #[test]
    fn unsound_parts_are_refused() {
        let refused = |width, members, cells| SlotTable::from_parts(width, members, cells).expect_err("unsound");
        assert_eq!(refused(0, nodes(1), cells(&[0])), InvalidTable::Width(0));
        assert_eq!(refused(8, nodes(1), cells(&[0])), InvalidTable::Width(8));
        assert_eq!(refused(1, nodes(MEMBERS_MAX as u128 + 1), cells(&[0])), InvalidTable::Members(MEMBERS_MAX + 1));
        assert_eq!(refused(1, vec![NodeId(1), NodeId(1)], cells(&[0])), InvalidTable::Order);
        assert_eq!(refused(2, nodes(2), cells(&[0])), InvalidTable::Cells { expected: 8192, found: 4096 });
        assert_eq!(refused(1, nodes(0), cells(&[0])), InvalidTable::Cells { expected: 0, found: 4096 });
        let slot = Slot::of_hash(7);
        let mut bad = cells(&[0, 1]);
        bad[14] = 2;
        assert_eq!(refused(2, nodes(2), bad.clone()), InvalidTable::Replica(slot));
        bad[14] = 1;
        assert_eq!(refused(2, nodes(2), bad), InvalidTable::Replica(slot));
    }

    #[test]
    fn p2_the_digest_tells_tables_apart_and_is_part_of_the_format() {
        let table = |width, row: &[u16]| SlotTable::from_parts(width, nodes(3), cells(row)).expect("a sound table");
        let one = table(2, &[2, 0]);
        assert_ne!(one.digest(), table(2, &[0, 2]).digest());
        assert_ne!(one.digest(), table(3, &[2, 0, 1]).digest());
        assert_eq!(one.digest(), 0xb7f2cadb5568413c);
        assert_eq!(SlotTable::empty().digest(), 0xeb5547ab0a870a8c);
    }
}
