//! Listings of strong namespaces. A quorum of the replicas of every slot lists what it holds, tombstones included. Where all of them show the same ballot of a key
//! that stands; where they differ the key is read, which also makes it the same everywhere (Q9).
//!
//! Each key is as it was at some moment of the listing; the page as a whole is no snapshot. Replicas answer only while they have the same word from the council about
//! every slot's phase as the asker (Q4): a replica that already counts in a later phase may lack what was written there.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::BitOr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isochrone_edge::{Level, ListCommand, ListPage, Listed, Refusal, revision_version};
use isochrone_ident::{Hlc, Key, Kind, Namespace, Slot, WallMicros};
use isochrone_placement::slot_of;
use isochrone_quorum::{Ballot, Configuration, KeyName, Member, Outcome, Revision, Votes, Want, Wish};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::configurations::Configurations;
use super::operate::{Handed, StrongAsk};
use crate::node::core::Core;

/// Pages of the store that are read for one page of an answer, at most: keys of other slots fill them, too.
const ROUNDS: usize = 16;
/// When replicas have other words from the council, they are asked again after this.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks a replica for its keys of a namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StrongList {
    ns: Namespace,
    prefix: bytes::Bytes,
    after: Option<Key>,
    limit: u32,
    /// [`Configurations::digest`] of the asker.
    phases: u64,
}

/// A key as one replica holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StrongKey {
    key: Key,
    ballot: Ballot,
    revision: Revision,
    is_live: bool,
    bytes: u64,
    expires: Option<WallMicros>,
}

/// A replica's keys, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StrongKeys {
    keys: Vec<StrongKey>,
    next: Option<Key>,
}

impl StrongKeys {
    fn find(&self, key: &Key) -> Option<&StrongKey> {
        self.keys.binary_search_by(|held| held.key.cmp(key)).ok().map(|at| &self.keys[at])
    }
}

/// Who has answered.
struct Answers {
    configurations: Arc<Configurations>,
    answers: BTreeMap<Member, StrongKeys>,
}

impl Answers {
    /// Those of a slot's replicas who have answered.
    fn votes(&self, configuration: &Configuration) -> Votes {
        self.answers.keys().map(|&member| configuration.vote_of(member)).fold(Votes::NOBODY, Votes::bitor)
    }

    fn is_complete(&self) -> bool {
        self.configurations.iter().all(|configuration| configuration.is_quorum(self.votes(configuration)))
    }

    /// What those say of a key who count for its slot. An error where they say different things.
    fn agreed(&self, configuration: &Configuration, key: &Key) -> Result<Option<&StrongKey>, Differ> {
        let mut told = configuration.members().filter_map(|member| self.answers.get(&member)).map(|keys| keys.find(key));
        let first = told.next().flatten();
        let ballot = |held: Option<&StrongKey>| held.map_or(Ballot::NONE, |held| held.ballot);
        if told.all(|other| ballot(other) == ballot(first)) { Ok(first) } else { Err(Differ) }
    }
}

/// Replicas show different ballots of a key.
struct Differ;

impl Core {
    /// Lists keys of a strong namespace.
    pub(crate) async fn list_strong(&self, command: ListCommand) -> Result<ListPage, Refusal> {
        let mut session = self.session_of(command.session.as_ref().map(isochrone_edge::SessionToken::as_str))?;
        let deadline = command.deadline.min(Instant::now() + self.options.strong.deadline);
        if command.kind != Kind::Value {
            return Err(super::values::only_values(&command.ns, command.kind));
        }
        let began = self.now();
        let answers = self.ask_for_keys(&command, deadline).await?;
        let complete_to = answers.answers.values().filter_map(|answer| answer.next.clone()).min();
        let keys: BTreeSet<Key> = answers.answers.values().flat_map(|answer| &answer.keys).map(|held| held.key.clone()).collect();
        let mut entries = Vec::new();
        for key in keys {
            if entries.len() > command.limit || complete_to.as_ref().is_some_and(|bound| key > *bound) {
                break;
            }
            entries.extend(self.listed_key(&answers, &command.ns, key, deadline).await?);
        }
        let mut next = complete_to;
        if entries.len() > command.limit {
            entries.truncate(command.limit);
            next = entries.last().map(|entry: &Listed| entry.key.clone());
        }
        session.note_strong(Hlc::at(began));
        Ok(ListPage { entries, next, receipt: self.strong_receipt(Level::Strong, Some(0), session, None) })
    }

    /// Asks every replica, until a quorum of each slot's has answered.
    async fn ask_for_keys(&self, command: &ListCommand, deadline: Instant) -> Result<Answers, Refusal> {
        loop {
            let configurations = self.strong.configurations.load_full();
            let mut failures = Vec::new();
            let list = StrongList {
                ns: command.ns.clone(),
                prefix: command.prefix.clone(),
                after: command.after.clone(),
                limit: u32::try_from(command.limit).unwrap_or(u32::MAX),
                phases: configurations.digest(),
            };
            let members: BTreeSet<Member> = configurations.iter().flat_map(|configuration| configuration.members()).collect();
            let mut asked: FuturesUnordered<_> = members.into_iter().map(|member| self.keys_at(member, list.clone(), deadline)).collect();
            let mut answers = Answers { configurations, answers: BTreeMap::new() };
            while let Ok(Some((member, answer))) = tokio::time::timeout_at(deadline, asked.next()).await {
                match answer {
                    Ok(keys) => drop(answers.answers.insert(member, keys)),
                    Err(failure) => failures.push(format!("{}: {failure}", member.node)),
                }
                if answers.is_complete() {
                    return Ok(answers);
                }
            }
            if Instant::now() + PAUSE >= deadline {
                metrics::counter!("isochrone_node_quorum_timeouts_total", "of" => "list").increment(1);
                return Err(Refusal::NoQuorum { detail: Cow::Owned(failures.join("; ")) });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn keys_at(&self, member: Member, list: StrongList, deadline: Instant) -> (Member, Result<StrongKeys, String>) {
        if member == self.strong.me {
            return (member, self.keys_here(&list));
        }
        let answer = match self.tell_strong(member.node, &StrongAsk::List(list), deadline).await {
            Ok(Handed::Listed(keys)) => Ok(keys),
            Ok(_) => Err("another answer than was asked for".to_owned()),
            Err(failure) => Err(failure),
        };
        (member, answer)
    }

    /// This daemon's keys, for a listing.
    pub(crate) fn keys_here(&self, list: &StrongList) -> Result<StrongKeys, String> {
        let configurations = self.strong.configurations.load_full();
        if configurations.digest() != list.phases {
            return Err("it has heard another word of the council's about where slots are; asked again".to_owned());
        }
        let limit = (list.limit as usize).saturating_add(1);
        let counts = |slot: Slot| configurations.get(slot).is_some_and(|configuration| configuration.joined(self.strong.me).is_some());
        let (mut keys, mut after) = (Vec::new(), list.after.clone());
        for _ in 0..ROUNDS {
            let page = self
                .strong
                .store
                .list(&list.ns, &list.prefix, after.as_ref().map(Key::as_bytes), limit - keys.len(), &counts)
                .map_err(|e| e.to_string())?;
            keys.extend(page.items.into_iter().map(|held| StrongKey {
                key: held.name.key,
                ballot: held.ballot,
                revision: held.revision,
                is_live: held.is_live,
                bytes: held.bytes,
                expires: held.expires,
            }));
            after = page.next;
            if after.is_none() || keys.len() >= limit {
                break;
            }
        }
        Ok(StrongKeys { keys, next: after })
    }

    async fn listed_key(&self, answers: &Answers, ns: &Namespace, key: Key, deadline: Instant) -> Result<Option<Listed>, Refusal> {
        let slot = slot_of(ns, key.as_bytes());
        let Some(configuration) = answers.configurations.get(slot) else { return Ok(None) };
        if let Ok(held) = answers.agreed(configuration, &key) {
            return Ok(held.filter(|held| self.is_live_key(held)).map(|held| Listed {
                key: held.key.clone(),
                version: revision_version(held.revision.0),
                etag: None,
                bytes: held.bytes,
                expires_at: held.expires,
            }));
        }
        let name = KeyName { namespace: ns.clone(), key: key.clone() };
        let finished = self.operate(name, Wish::from(Want::Read), deadline).await;
        let Ok(Outcome::Read(envelope)) = finished.result else {
            return Err(Refusal::NoQuorum { detail: Cow::Owned(format!("the key {key} could not be read")) });
        };
        Ok(self.strong_object(envelope.as_deref()).map(|object| Listed {
            key,
            version: object.version,
            etag: None,
            bytes: object.value.len() as u64,
            expires_at: object.expires_at,
        }))
    }

    fn is_live_key(&self, held: &StrongKey) -> bool {
        let (now, skew_ms) = (self.now(), self.options.clock.ahead_ms_max);
        held.is_live && held.expires.is_none_or(|at| now <= at.plus_millis(skew_ms))
    }
}
