//! Where data lives: which nodes hold which slot.

mod candidate;
mod compute;
mod draw;
mod epoch;
mod plan;
mod quorum;
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
pub use plan::{Amount, NodeChange, Plan, plan};
pub use slot::{InvalidSlotSet, SlotSet, slot_of};
pub use table::{InvalidTable, MEMBERS_MAX, Replicas, SlotTable, WIDTH_MAX};
pub use track::{WeightOptions, WeightTracker};
pub use weights::{InvalidStep, RegionWeights, RoundTrips, WeightStep};
