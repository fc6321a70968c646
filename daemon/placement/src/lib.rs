//! Where data lives: which nodes hold which slot.

mod candidate;
mod epoch;
mod slot;
mod table;
mod weights;

pub use candidate::{Candidate, Capacity, InvalidCapacity};
pub use epoch::{BeginError, ClassPlacement, InvalidClass, Phase, Placement};
pub use slot::{InvalidSlotSet, SlotSet, slot_of};
pub use table::{InvalidTable, MEMBERS_MAX, Replicas, SlotTable, WIDTH_MAX};
pub use weights::{InvalidStep, RegionWeights, RoundTrips, WeightStep};
