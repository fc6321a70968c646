//! The strong path, decided: one register a key, chosen by majorities of the replicas of its slot, with no leader to lose (CASPaxos: Rystsov, "CASPaxos:
//! Replicated State Machines without logs", 2018, arXiv 1802.07000), on replica sets that change while reads and writes go on.
//!
//! ```text
//!   a client's Wish ──> Proposer ──Request──> Acceptor ──Row──> the disk, in groups
//!                          ^  │                  │                   │
//!                          │  └──> Done          └── held until <────┘ synced
//!                          └─────────Answer──────────┘
//!
//!   council: Configuration 2e -> 2e+1 ──> Mover ──> Certified ──> council: 2e+1 -> 2e+2       (a slot changes its replicas)
//!   tombstones past every retry       ──> Collector ──> erased at every replica                (a delete leaves nothing)
//!   round trips                       ──> choose_way ──> propose here, or at the owner
//! ```
//!
//! Comes in: wishes, messages, timers, seeds, the time, what the council has ordered and what the disk has synced. Goes out: messages, rows to write,
//! timers, and outcomes. Nothing here reads a clock, draws a random number, or touches a socket or a file. What a message holds is
//! checked against the state; none can make it panic.
//!
//! # The rules
//! A slot is in phase 2e = STABLE(e), with one replica set R_e, or 2e + 1 = JOINT(e, e + 1), with two.
//!
//! - **Q1** A quorum is a majority of R_e, and in JOINT of R_{e+1} as well: to prepare, to accept and to read ([`Configuration::is_quorum`]).
//! - **Q2** A [`Ballot`] is (counter, proposer, incarnation). Its counter exceeds every counter, floor and revision seen; it never carries two values.
//! - **Q3** [`SlotState`] and [`KeyState`] are durable before anything that rests on them is told. A failed sync ends the process.
//! - **Q4** Every message names its [`Scope`]. A past phase, foreign tables or a stranger are refused; a later phase is learned from the council and adopted
//!   durably first. Whoever joins without having been a member all along starts from empty.
//! - **Q5** Prepare(b) is refused at or below the floor, the promise or what was accepted; else promised.
//! - **Q6** Accept(b, v, next) is refused at or below the floor, or below promise or accepted. The same b again only raises the promise to `next`, or says
//!   that it did not.
//! - **Q7** A write: prepare at a quorum, take the value of the highest accepted ballot, look the request up, apply the change, accept at a quorum,
//!   answer. What changes nothing is a read, confirmed before it is answered. *Of a request that may have been tried before a
//!   refusal is confirmed only by proposing*: an accept of the earlier try may linger where this quorum does not look, and would be chosen by a later
//!   round, after the client was told that it was refused ([`Wish::is_repeat`]; the checker found it).
//! - **Q8** A quorum that also promised `next` spares the next write of the same proposer its first round trip. Dropped at a refusal, a restart, a change of phase.
//! - **Q9** A read promises nothing: a quorum that shows the same ballot answers it. Else the highest is written back under its own ballot; refused a few
//!   times, the read becomes an identity round. An unconfirmed maximum is never answered.
//! - **Q10** A write that ends after an accept has left is [`Failure::OutcomeUnknown`]; [`Failure::NothingHappened`] is told only while none has
//!   ([`Left`]), here or where the wish was handed to ([`Wish::lost`]). A request that comes back too late to be looked up, after its own accept left, is unknown too.
//! - **Q11** Answered requests stay in the register for their retry window and a clock's skew. A full ring refuses; older requests are refused, and so is
//!   another request under the same nonce ([`RequestId::print`]).
//! - **Q12** Proposing here or at the owner: the cheaper by estimate ([`choose_way`]).
//! - **Q13** Writes of a key that wait run in one round; back-off is uniform in [0, round trip x 2^k]; after two losses the wish goes to the
//!   winner that the ballots name ([`Output::HandOver`]).
//! - **Q14** A slot moves by seals, listings, certified copies and identity rounds, each repeatable by anybody ([`Mover`]). A copy carries the highest
//!   promises and the floor that the sealed majority showed; whether it is taken depends on the key's own promise alone.
//! - **Q15** A lost disk is another [`Member`].
//! - **Q16** A tombstone is forgotten when no retry can need it, all replicas show it, and all refuse every ballot up to a floor above everything
//!   seen ([`Collector`]). A key of which nothing was ever accepted is forgotten the same way. An expired value is made a tombstone first ([`Act::Expire`]).
//! - **Q18** A slot's promise grants each of its keys once, in one phase and one life ([`Proposer::acquire`]). Slots' ballots have odd counters and
//!   keys' even ones, so that no slot's ballot was ever a key's.
//!
//! Q17, reads of copies, needs nothing of this room.
//!
//! What all this costs without network and disk, on one core: `cargo run --release -p isochrone-quorum --example writes`.
//!
//! # The proof
//! `tests/checker` runs this code in worlds from seeds (moves, retries, crashes that lose what was not synced, a lost disk, forgetting, slot promises), and checks
//! that each key is linearizable, that revisions and fences only grow, that what was told not to have happened is never applied, and that everything
//! ends once faults do. Rules that are left out are missed: by chance where chance suffices, by a directed history where it does not.
//! `tests/model` has a model checker try every order of messages, timeouts and a move that two clients can meet, within small bounds.
//! More seeds than the usual 20,000:
//!
//! ```text
//! ISOCHRONE_QUORUM_SEEDS=20000..5000000 cargo test --release -p isochrone-quorum --test checker random_histories
//! ```

mod acceptor;
mod ballot;
mod change;
mod collector;
mod configuration;
mod envelope;
mod message;
mod mover;
mod mutation;
mod proposer;
mod way;

pub use acceptor::{Acceptor, AcceptorOptions, Effects, Place, Row, SlotState, View};
pub use ballot::{Ballot, Member, Phase, ProposerId, TableHash};
pub use change::{Act, Bounds, Change, Expect, Fence, Refusal, Verdict};
pub use collector::{COLLECTION_KEYS_MAX, CollectOutput, Collector, CollectorOptions};
pub use configuration::{Configuration, InvalidMove, Replica, Scope, Votes};
pub use envelope::{
    Accepted, Answered, Content, Effect, Envelope, Guard, Intent, KeyName, KeyState, RequestId, Revision, Token, Value, accepted_ballot,
};
pub use message::{Answer, Ask, Asker, Nack, Request, RoundId, Tag, Told, Why};
pub use mover::{MoveOutput, MoveProgress, Mover, MoverOptions};
#[doc(hidden)]
pub use mutation::Mutation;
pub use proposer::{Because, Began, Course, Failure, Left, OperationId, Outcome, Output, Proposer, ProposerOptions, Timer, Want, Wish};
pub use way::{Choice, Estimates, Way, choose_way, nearest_quorum_micros};
