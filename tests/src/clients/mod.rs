//! Clients: some that live beside one daemon, and some that roam; how they ask, and what the answers say.

pub mod calls;
pub mod desks;
pub mod roaming;
pub mod script;
pub mod settled;
pub mod strong;
pub mod typed_calls;
