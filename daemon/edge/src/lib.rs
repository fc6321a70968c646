//! Isochrone's HTTP side.

mod command;
mod operator;

pub use command::{
    Backend, Fence, Glance, IdempotencyKey, InvalidIdempotencyKey, InvalidLevel, Level, ListCommand, ListPage, Listed, Matcher, Mode,
    NamespaceView, Object, Preconditions, ReadCommand, Receipt, Refusal, Served, Source, WriteCommand, WriteOp, Written,
};
pub use operator::{
    Applied, ApplyRequest, Check, CouncilView, KeyPlacement, MemberView, Operator, OperatorRefusal, PlacementSummary, Reloaded,
    ReplicaView, ReplicationView, RoundTripsView, Status, StoreView,
};
