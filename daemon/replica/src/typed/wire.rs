//! The bytes of a typed state: for one state one sequence of bytes, so that replicas can compare sums of them (E6). The crate's types hold hash maps, whose
//! bytes differ from run to run.
//!
//! ```text
//!   kind, floor, nodes (16 bytes each), actors (node's place, life), lives, oldest first, each:
//!     first write (time, node's place, incarnation), deadline, content:
//!       counter   per actor: place, revision, latest, p, n, claims
//!       set       heads per actor: place, dots, latest; members in order, each with its dots: actor's place, number
//!       map       as a set, of elements; then per counter: name, parts, bases
//!       register  as a set, of values
//! ```
//!
//! Everything is in ascending order, so a node's id is written once, however many dots it gave out. Times but the first of a life are told as
//! the distance to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isochrone_ident::{Hlc, Incarnation, Kind, NodeId, Version, WallMicros};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Typed;
use super::change::{Actor, ClaimId};
use super::counter::{Base, Bases, Claim, Counter, Part};
use super::delta::Clash;
use super::dots::{Dots, Head, Member};
use super::lives::{Content, Life};
use super::map::{Element, Field, Fields};
use super::register::Sibling;

#[derive(Serialize, Deserialize)]
struct Whole {
    kind: Kind,
    floor: u64,
    nodes: Vec<[u8; 16]>,
    actors: Vec<(u32, u64)>,
    lives: Vec<OneLife>,
}

#[derive(Serialize, Deserialize)]
struct OneLife {
    hlc: u64,
    node: u32,
    incarnation: u64,
    expires_at: Option<u64>,
    content: Plain,
}

#[derive(Serialize, Deserialize)]
enum Plain {
    Counter(Vec<PlainPart>),
    Set(PlainDots<Bytes>),
    Map(PlainDots<Element>, Vec<PlainField>),
    Register(PlainDots<Sibling>),
}

#[derive(Serialize, Deserialize)]
struct PlainPart {
    actor: u32,
    revision: u64,
    latest: i64,
    p: u64,
    n: u64,
    claims: Vec<([u8; 16], i64, i64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct PlainDots<M> {
    heads: Vec<(u32, u64, i64)>,
    members: Vec<(M, Vec<(u32, u64)>)>,
}

#[derive(Serialize, Deserialize)]
struct PlainField {
    name: Bytes,
    parts: Vec<PlainPart>,
    bases: Vec<(u32, u64, u64, u64)>,
}

/// The nodes and actors of a state, each once, in order.
struct Places {
    nodes: Vec<NodeId>,
    actors: Vec<Actor>,
    /// The time that the others are told by.
    origin: Hlc,
}

impl Places {
    fn of(typed: &Typed) -> Self {
        let actors: BTreeSet<Actor> = typed.lives.values().flat_map(Life::actors).collect();
        let nodes: BTreeSet<NodeId> = actors.iter().map(|actor| actor.node).chain(typed.lives.keys().map(|id| id.node)).collect();
        Self { nodes: nodes.into_iter().collect(), actors: actors.into_iter().collect(), origin: Hlc::ZERO }
    }

    fn node(&self, node: NodeId) -> u32 {
        place(&self.nodes, &node)
    }

    fn actor(&self, actor: &Actor) -> u32 {
        place(&self.actors, actor)
    }

    fn since(&self, hlc: Hlc) -> i64 {
        hlc.0.wrapping_sub(self.origin.0).cast_signed()
    }

    fn node_at(&self, at: u32) -> Result<NodeId, Clash> {
        usize::try_from(at).ok().and_then(|at| self.nodes.get(at)).copied().ok_or(Clash)
    }

    fn actor_at(&self, at: u32) -> Result<Actor, Clash> {
        usize::try_from(at).ok().and_then(|at| self.actors.get(at)).copied().ok_or(Clash)
    }

    fn after(&self, distance: i64) -> Hlc {
        Hlc(self.origin.0.wrapping_add(distance.cast_unsigned()))
    }
}

/// The place of an item that is in the list. A list of 2^32 does not fit into memory.
fn place<T: Ord>(items: &[T], item: &T) -> u32 {
    u32::try_from(items.partition_point(|other| other < item)).unwrap_or(u32::MAX)
}

impl Serialize for Typed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        flatten(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Typed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Whole::deserialize(deserializer)?;
        build(whole).map_err(|Clash| serde::de::Error::custom("a typed state that no daemon can have made"))
    }
}

fn flatten(typed: &Typed) -> Whole {
    let mut places = Places::of(typed);
    let mut lives = Vec::with_capacity(typed.lives.len());
    for (id, life) in &typed.lives {
        places.origin = id.hlc;
        let content = flat_content(&life.content, &places);
        let expires_at = life.expires_at.map(|at| at.0);
        lives.push(OneLife { hlc: id.hlc.0, node: places.node(id.node), incarnation: id.incarnation.0, expires_at, content });
    }
    let nodes = places.nodes.iter().map(|node| node.0.to_be_bytes()).collect();
    let actors = places.actors.iter().map(|actor| (places.node(actor.node), actor.life)).collect();
    Whole { kind: typed.kind, floor: typed.floor.0, nodes, actors, lives }
}

fn flat_content(content: &Content, places: &Places) -> Plain {
    match content {
        Content::Counter(counter) => Plain::Counter(flat_counter(counter, places)),
        Content::Set(set) => Plain::Set(flat_dots(set, places)),
        Content::Map(fields) => {
            let counters = fields.counters.iter().map(|(name, field)| flat_field(name, field, places)).collect();
            Plain::Map(flat_dots(&fields.elements, places), counters)
        }
        Content::Register(values) => Plain::Register(flat_dots(values, places)),
    }
}

fn flat_counter(counter: &Counter, places: &Places) -> Vec<PlainPart> {
    let claim = |(id, claim): (ClaimId, Claim)| (id.0.to_be_bytes(), places.since(claim.at), claim.amount, claim.revision);
    let part = |(actor, part): (Actor, Part)| PlainPart {
        actor: places.actor(&actor),
        revision: part.revision,
        latest: places.since(part.latest),
        p: part.p,
        n: part.n,
        claims: part.claims.into_iter().map(claim).collect(),
    };
    counter.parts().map(part).collect()
}

fn flat_dots<M: Member>(dots: &Dots<M>, places: &Places) -> PlainDots<M> {
    let heads = dots.heads().iter().map(|(actor, head)| (places.actor(actor), head.dots, places.since(head.latest))).collect();
    let of_member = |(member, dots): (&M, crdts::VClock<Actor>)| {
        (member.clone(), dots.iter().map(|dot| (places.actor(dot.actor), dot.counter)).collect())
    };
    let mut members: Vec<(M, Vec<(u32, u64)>)> = dots.members().map(of_member).collect();
    members.sort_unstable();
    PlainDots { heads, members }
}

fn flat_field(name: &Bytes, field: &Field, places: &Places) -> PlainField {
    let bases = field.bases.iter().map(|(actor, base)| (places.actor(actor), base.revision, base.p, base.n)).collect();
    PlainField { name: name.clone(), parts: flat_counter(&field.counter, places), bases }
}

fn build(whole: Whole) -> Result<Typed, Clash> {
    let nodes: Vec<NodeId> = whole.nodes.into_iter().map(|bytes| NodeId(u128::from_be_bytes(bytes))).collect();
    let mut places = Places { nodes, actors: Vec::new(), origin: Hlc::ZERO };
    for (node, life) in whole.actors {
        let node = places.node_at(node)?;
        places.actors.push(Actor { node, life });
    }
    let mut lives = BTreeMap::new();
    for life in whole.lives {
        places.origin = Hlc(life.hlc);
        let id = Version { hlc: places.origin, node: places.node_at(life.node)?, incarnation: Incarnation(life.incarnation) };
        let content = build_content(life.content, &places)?;
        if content.kind() != whole.kind || lives.insert(id, Life { expires_at: life.expires_at.map(WallMicros), content }).is_some() {
            return Err(Clash);
        }
    }
    if whole.kind == Kind::Value { Err(Clash) } else { Ok(Typed { kind: whole.kind, floor: Hlc(whole.floor), lives }) }
}

fn build_content(plain: Plain, places: &Places) -> Result<Content, Clash> {
    Ok(match plain {
        Plain::Counter(parts) => Content::Counter(build_counter(parts, places)?),
        Plain::Set(set) => Content::Set(build_dots(set, places)?),
        Plain::Map(elements, plain) => {
            let mut counters = BTreeMap::new();
            for field in plain {
                let (name, field) = build_field(field, places)?;
                counters.insert(name, field);
            }
            Content::Map(Fields { elements: build_dots(elements, places)?, counters })
        }
        Plain::Register(values) => Content::Register(build_dots(values, places)?),
    })
}

fn build_counter(parts: Vec<PlainPart>, places: &Places) -> Result<Counter, Clash> {
    let mut counter = Counter::default();
    for plain in parts {
        let claim = |(id, at, amount, revision): ([u8; 16], i64, i64, u64)| {
            (ClaimId(u128::from_be_bytes(id)), Claim { at: places.after(at), amount, revision })
        };
        let claims = plain.claims.into_iter().map(claim).collect();
        let part = Part { revision: plain.revision, latest: places.after(plain.latest), p: plain.p, n: plain.n, claims };
        counter.put(places.actor_at(plain.actor)?, &part)?;
    }
    Ok(counter)
}

fn build_dots<M: Member>(plain: PlainDots<M>, places: &Places) -> Result<Dots<M>, Clash> {
    let mut heads = BTreeMap::new();
    for (actor, dots, latest) in plain.heads {
        heads.insert(places.actor_at(actor)?, Head { dots, latest: places.after(latest) });
    }
    let mut members = Vec::new();
    for (member, of_member) in plain.members {
        let dots: Result<Vec<_>, Clash> = of_member.into_iter().map(|(actor, counter)| Ok((places.actor_at(actor)?, counter))).collect();
        members.push((member, dots?));
    }
    Dots::new(heads, members)
}

fn build_field(plain: PlainField, places: &Places) -> Result<(Bytes, Field), Clash> {
    let mut bases = Bases::new();
    for (actor, revision, p, n) in plain.bases {
        bases.insert(places.actor_at(actor)?, Base { revision, p, n });
    }
    Ok((plain.name, Field { counter: build_counter(plain.parts, places)?, bases }))
}
