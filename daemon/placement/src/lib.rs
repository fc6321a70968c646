//! Where data lives: which part of the key space a key falls into, which nodes hold that part, and how it moves when that changes.
//!
//! ```text
//!   namespace, key --slot_of--> slot ------------+
//!                                                v                        read_set(slot)
//!   candidates --+                        +-------------+                 write_sets(slot)
//!   (nodes,      |                        | Placement   | --------------> phase(slot)
//!    regions,    +--compute--> SlotTable  |  eventual   |
//!    zones,      |                |       |  strong     | <-- begin(table), complete(slots)
//!    capacity)   |                |       +-------------+     as the council orders them
//!   weights -----+                +--plan--> what would move, before it does
//!      ^
//!   round trips, traffic --WeightTracker--> weights that change seldom
//! ```
//!
//! Comes in: who may hold replicas, how far regions are from each other, what the council decided, and the time as a number. Goes out: tables, phases and
//! plans, as values. Nothing here reads a clock, draws a random number, or talks to anyone. What may come from a peer or a disk is checked when it
//! is decoded: a table that exists is sound, and no lookup in it can fail.
//!
//! # The rules
//!
//! **P1.** A key's slot is XXH3-64 of namespace, a zero byte, and key, modulo 4,096 ([`slot_of`]). Part of the format.
//!
//! **P2.** A table gives each slot an ordered replica set by weighted rendezvous ranking ([`compute`]). Each node draws for each slot, by a fixed hash
//! and its weight (its capacity times its region's latency factor); the better draw wins. A region, or a zone, draws what its best node draws. As draws are
//! arrival times of Poisson processes, the first of a group arrives at the sum of the group's rates: so a region wins in proportion to the
//! weight of its nodes together, then a zone inside it, then a node inside that, exactly as if each level drew for itself, and yet one node's loss
//! touches only the slots that it won. Replicas fall in distinct regions while there are enough, then in distinct zones, then on
//! distinct nodes: as equally as the sizes of the regions, and of a region's zones, allow.
//!
//! No node takes more than 1.25 times its fair share, rounded up: slots are filled in order, and a node at its cap counts as absent. Fair is what the weights give
//! once spread is kept. Spread comes before the cap: where only full nodes could keep the spread, the best of them takes the replica.
//!
//! The logarithm in a draw may differ between platforms in its last bit. So the council stores the table, nodes compare its [`SlotTable::digest`],
//! and nobody trusts a table of its own over it.
//!
//! **P3.** A region's weight is capacity x clamp((L_ref / L_region)^alpha, 1/2, 2), the latter quantised in 20 % steps and slow to change ([`WeightTracker`]).
//!
//! **P4.** A lookup is hash, index, done: no allocation and no lock ([`ClassPlacement::read_set`]).
//!
//! **P5.** What a change would move is known in slots, keys and bytes for each node before it is made ([`plan`]).
//!
//! **P6.** For strong slots, of the spread-legal sets near the top of the ranking, the one with the least expected quorum round trip wins
//! ([`Class::Strong`]). Near is a node that would be in the set if it weighed a quarter more. A strong set has an odd number of nodes, or both of two
//! ([`strong_width`]).
//!
//! **P7.** Movement is near what theory says is the least. What holds, tested:
//!
//! | change | eventual slots, no node at its cap | at the caps, or strong slots |
//! |---|---|---|
//! | one of N nodes lost | moves exactly the replicas that it held (1/N on average); with several replicas in a region of several zones, a tenth more at most on average | a slot that finds a node full goes on to the next, and may fill that: strong slots of 5 regions 1.1/N on average, of 10 regions 1.15/N; 12 slots a node (1,000 nodes), where many are at their caps: eventual 1.2/N, strong 1.5/N |
//! | one node added, or its capacity raised | moves only towards it | mostly towards it |
//! | a region's weight raised | moves only towards that region | mostly towards it |
//!
//! Loads scatter by about the square root of the slots a node holds: with 60 nodes and width 3 (205 each) the cap is three to four deviations
//! away and hardly ever met, with 1,000 nodes (12 each) it is one.
//!
//! # Phases
//!
//! All slots of a class are STABLE in an epoch e, until the council begins the next. Then each slot whose set differs is JOINT(e, e+1): it is read at R_e
//! and written at R_e and R_{e+1}, until the council notes that it has moved; when all have, the class is STABLE in e+1. Never are more
//! than two sets live for a slot. An epoch that moves nothing is over as it begins. [`Joins`] says since which epoch each replica has been in its
//! slot's sets without a gap. [`ClassPlacement::without`] is what is left of it when nodes are lost for good.

mod candidate;
mod compute;
mod draw;
mod epoch;
mod joins;
mod plan;
mod quorum;
mod remains;
mod share;
mod slot;
mod spread;
mod table;
mod topology;
mod track;
mod weights;

pub use candidate::{Candidate, Capacity, InvalidCapacity};
pub use compute::{Class, compute};
pub use epoch::{BeginError, ClassPlacement, InvalidClass, Phase, Placement};
pub use joins::Joins;
pub use plan::{Amount, NodeChange, Plan, plan};
pub use quorum::strong_width;
pub use remains::Cut;
pub use slot::{InvalidSlotSet, SlotSet, slot_of};
pub use table::{InvalidTable, MEMBERS_MAX, Replicas, SlotTable, WIDTH_MAX};
pub use track::{WeightOptions, WeightTracker};
pub use weights::{InvalidStep, RegionWeights, RoundTrips, WeightStep};
