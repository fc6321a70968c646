//! What councils say to each other, and the checks that a message passes before the engine sees it.
//!
//! ```text
//!   message = version (1 byte) | Header and Ask, or Answer (postcard)
//! ```

use isochrone_ident::{NodeId, StoreId};
use openraft::EntryPayload;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::command::{CouncilId, Member, Outcome, Proposal};
use crate::raft::{
    AppendRequest, AppendResponse, Entry, InstallError, InstallRequest, InstallResponse, LogId, Membership, Vote, VoteRequest, VoteResponse,
};

/// Version of the messages.
const FORMAT: u8 = 1;
/// Terms and indices beyond this are nobody's: counting on from them could overflow.
const NUMBER_MAX: u64 = u64::MAX / 4;

/// Between whom a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The sender's council; 0 when it has none yet.
    pub(crate) council: CouncilId,
    /// The sender's store.
    pub(crate) from: StoreId,
    /// The store that the receiver must have, where the sender knows one (Q15).
    pub(crate) to: Option<StoreId>,
}

/// What one council asks of another.
#[derive(Serialize, Deserialize)]
pub(crate) enum Ask {
    /// The engine: entries, or a heartbeat without any.
    Append(AppendRequest),
    /// The engine: an election.
    Vote(VoteRequest),
    /// The engine: a part of a snapshot.
    Install(InstallRequest),
    /// Would you vote for me? Changes nothing.
    Canvass(Canvass),
    /// Order this, if you lead.
    Propose { proposal: Proposal, millis: u32 },
    /// Take me in; whoever is asked passes it on to the leader.
    Join { member: Member, millis: u32 },
    /// Your whole state.
    State,
}

/// A follower that wonders whether an election would succeed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Canvass {
    pub(crate) term: u64,
    pub(crate) last: Option<LogId>,
}

/// The answer to an [`Ask`], one kind for each.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(AppendResponse),
    Vote(VoteResponse),
    Install(Result<InstallResponse, InstallError>),
    Canvass { granted: bool },
    Proposal(Proposed),
    State(Box<crate::state::ClusterState>),
}

/// What became of a proposal that was sent to another daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Proposed {
    /// It was ordered.
    Done(Outcome),
    /// Nothing happened; perhaps that one leads.
    NotLeader(Option<NodeId>),
    /// It may yet be applied.
    Unknown,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it is of another version")]
    Version,
    #[error("it doesn't decode")]
    Decode,
    #[error("it breaks the protocol: {0}")]
    Rule(&'static str),
}

pub(crate) fn encode_ask(header: Header, ask: &Ask) -> Result<Vec<u8>, Malformed> {
    postcard::to_extend(&(header, ask), vec![FORMAT]).map_err(|_| Malformed::Decode)
}

pub(crate) fn decode_ask(from: NodeId, bytes: &[u8]) -> Result<(Header, Ask), Malformed> {
    let (header, ask) = decode(bytes)?;
    check(from, &ask)?;
    Ok((header, ask))
}

pub(crate) fn encode_answer(answer: &Answer) -> Result<Vec<u8>, Malformed> {
    postcard::to_extend(answer, vec![FORMAT]).map_err(|_| Malformed::Decode)
}

pub(crate) fn decode_answer(bytes: &[u8]) -> Result<Answer, Malformed> {
    decode(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    match bytes.split_first() {
        Some((&FORMAT, body)) => postcard::from_bytes(body).map_err(|_| Malformed::Decode),
        _ => Err(Malformed::Version),
    }
}

/// The engine trusts its peers; this is what it takes for granted.
fn check(from: NodeId, ask: &Ask) -> Result<(), Malformed> {
    match ask {
        Ask::Append(append) => check_append(from, append),
        Ask::Vote(vote) => {
            check_vote(from, &vote.vote, false)?;
            check_id(vote.last_log_id.as_ref())
        }
        Ask::Install(install) => {
            check_vote(from, &install.vote, true)?;
            check_id(install.meta.last_log_id.as_ref())?;
            check_membership(install.meta.last_membership.membership())
        }
        Ask::Join { member, .. } if member.node != from => Err(Malformed::Rule("it joins for another node")),
        Ask::Canvass(canvass) if canvass.term > NUMBER_MAX => Err(Malformed::Rule("a term beyond all terms")),
        _ => Ok(()),
    }
}

fn check_append(from: NodeId, append: &AppendRequest) -> Result<(), Malformed> {
    check_vote(from, &append.vote, true)?;
    check_id(append.prev_log_id.as_ref())?;
    check_id(append.leader_commit.as_ref())?;
    let mut previous = append.prev_log_id;
    for entry in &append.entries {
        check_entry(previous, entry, &append.vote)?;
        previous = Some(entry.log_id);
    }
    Ok(())
}

fn check_entry(previous: Option<LogId>, entry: &Entry, vote: &Vote) -> Result<(), Malformed> {
    let (index, leader) = (entry.log_id.index, entry.log_id.leader_id);
    if index != previous.map_or(0, |id| id.index + 1) || previous.is_some_and(|id| leader < id.leader_id) {
        return Err(Malformed::Rule("its entries don't follow each other"));
    }
    if leader.term > vote.leader_id.term {
        return Err(Malformed::Rule("an entry of a later term than its leader"));
    }
    match &entry.payload {
        EntryPayload::Membership(membership) => check_membership(membership),
        _ => Ok(()),
    }
}

fn check_vote(from: NodeId, vote: &Vote, committed: bool) -> Result<(), Malformed> {
    if vote.leader_id.node_id != from {
        return Err(Malformed::Rule("it speaks for another node"));
    }
    if vote.committed != committed {
        return Err(Malformed::Rule("a vote of the wrong kind"));
    }
    if vote.leader_id.term > NUMBER_MAX { Err(Malformed::Rule("a term beyond all terms")) } else { Ok(()) }
}

fn check_id(id: Option<&LogId>) -> Result<(), Malformed> {
    match id {
        Some(id) if id.index > NUMBER_MAX || id.leader_id.term > NUMBER_MAX => Err(Malformed::Rule("an index beyond all indices")),
        _ => Ok(()),
    }
}

fn check_membership(membership: &Membership) -> Result<(), Malformed> {
    let configs = membership.get_joint_config();
    let sound = configs.len() <= 2 && configs.iter().all(|c| !c.is_empty() && c.iter().all(|n| membership.get_node(n).is_some()));
    if sound { Ok(()) } else { Err(Malformed::Rule("an impossible membership")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // in a test a panic is the message
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn append(indices: &[u64], prev: Option<u64>) -> Ask {
        let id = |index| LogId::new(CommittedLeaderId::new(2, NodeId(1)), index);
        Ask::Append(AppendRequest {
            vote: Vote::new_committed(2, NodeId(1)),
            prev_log_id: prev.map(id),
            entries: indices.iter().map(|&i| Entry { log_id: id(i), payload: EntryPayload::Blank }).collect(),
            leader_commit: None,
        })
    }

    fn verdict(from: u128, ask: &Ask) -> Option<Malformed> {
        decode_ask(NodeId(from), &encode_ask(Header { council: CouncilId(9), from: StoreId(1), to: None }, ask).unwrap()).err()
    }

    #[test]
    fn a_sound_append_passes() {
        assert_eq!(verdict(1, &append(&[4, 5], Some(3))), None);
        assert_eq!(verdict(1, &append(&[0], None)), None);
    }

    #[test]
    fn entries_with_a_gap_don_t_reach_the_engine() {
        assert!(matches!(verdict(1, &append(&[4, 6], Some(3))), Some(Malformed::Rule(_))));
        assert!(matches!(verdict(1, &append(&[7], None)), Some(Malformed::Rule(_))));
    }

    #[test]
    fn nobody_speaks_for_another_node() {
        assert!(matches!(verdict(2, &append(&[], None)), Some(Malformed::Rule(_))));
    }

    #[test]
    fn a_term_that_could_overflow_is_refused() {
        let ask = Ask::Vote(VoteRequest::new(Vote::new(u64::MAX, NodeId(1)), None));
        assert!(matches!(verdict(1, &ask), Some(Malformed::Rule(_))));
    }

    #[test]
    fn an_entry_at_the_last_index_is_refused_without_overflow() {
        assert!(matches!(verdict(1, &append(&[0], Some(u64::MAX))), Some(Malformed::Rule(_))));
    }

    #[test]
    fn another_version_is_told_apart_from_garbage() {
        assert!(matches!(decode_ask(NodeId(1), &[2, 0]), Err(Malformed::Version)));
        assert!(matches!(decode_ask(NodeId(1), &[FORMAT, 9]), Err(Malformed::Decode)));
    }
}
